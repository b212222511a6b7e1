"""The fresh process of the common suite: loads each run whose path comes on stdin and compares.

``python suite_worker.py``; the findings of a run go into its ``reloaded.json``: name of the check → how it failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from suite_cells import Found, outputs, read_rows, texts
from suite_checks import close, failing
from tunery.errors import ModelError
from tunery.models import machine, weights
from tunery.run import build
from tunery.run.dataset import load_dataset
from tunery.rundir import RunDir, read_json, write_json


class Loaded:
    """A run from disk, with what the process that trained it saw."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.tuned = run, build.load(run)
        self.rows = read_rows(run.path / "rows.json")
        self.expected = weights.read(run.path / "expected.safetensors")
        self.said = read_json(run.path / "expected.json")
        self.pad = self.tuned.tokenizer.pad_token_id or 0

    def says(self, name: str, bare: bool = False) -> None:
        """Bitwise what the other process got."""
        rows = [row.without_soft() for row in self.rows] if bare else self.rows
        _, found = outputs(self.tuned.model, self.tuned.task, rows, self.pad)
        expected = self.expected[name]
        apart = float((found - expected).abs().max()) if found.shape == expected.shape else "shapes"
        assert torch.equal(found, expected), f"logits differ from the {name} model's: {apart}"


def reloads(case: Loaded) -> None:
    """Equal logits and texts in a fresh process."""
    assert not case.tuned.model.training
    case.says("tuned")
    config = case.run.config()
    examples = load_dataset(config.data, config.task_name, config.train.seed).splits["train"][:2]
    found = texts(case.tuned.model, case.tuned.task, case.tuned.tokenizer, examples, 2)
    assert found == case.said["texts"], f"{found} instead of {case.said['texts']}"


def disables(case: Loaded) -> None:
    """Switched off, the base; a method that overwrote it says what to do instead."""
    try:
        case.tuned.method.activate(case.tuned.model, None)
    except ModelError as error:
        assert error.hint
        names = sorted(name for name, _ in case.tuned.model.named_parameters())
        assert names == case.said["parameters"], "only a method that adds nothing may refuse"
        return
    case.says("base", bare=True)
    case.tuned.method.activate(case.tuned.model, "default")
    case.says("tuned")


def merges(case: Loaded) -> None:
    """Merged: the same function in a plain model. What is on disk stays as it was."""
    reason = case.tuned.method.merge(case.tuned.model)
    assert (reason is None) == case.tuned.method.merges, f"merges = {case.tuned.method.merges}, but {reason}"
    if reason is not None:
        assert len(reason) > 10
        case.says("tuned")
        return
    _, found = outputs(case.tuned.model, case.tuned.task, case.rows, case.pad)
    close(found, case.expected["tuned"], "merged logits")
    names = sorted(name for name, _ in case.tuned.model.named_parameters())
    assert names == case.said["parameters"], "the merged model has other parameters than the base"
    Loaded(case.run).says("tuned")


def main() -> None:
    machine.cpus = lambda: 1
    torch.set_num_threads(1)
    for line in sys.stdin:
        folder = Path(line.strip())
        found = Found(folder)
        with failing("loads", found):
            case = Loaded(RunDir.open(folder))
            for check in (reloads, disables, merges):
                with failing(check.__name__, found):
                    check(case)
        write_json(folder / "reloaded.json", found.failed)


if __name__ == "__main__":
    main()
