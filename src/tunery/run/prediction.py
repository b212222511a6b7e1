"""What ``tunery plan`` has measured, used by every run that it fits: predicted at the beginning, compared at the end.

A measurement lies in the cache under a key of all that its times and memory depend on: data, base, task, method, sizes
of passes, threads. Epochs, steps, learning rate, batch size and places of files are not among it: what they change is
computed from the *shape* of the run (see ``cost.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tunery import rundir
from tunery.config import TrainConfig
from tunery.data import soft
from tunery.errors import TuneryError
from tunery.models import cache
from tunery.protocols import Example
from tunery.run import cost, overfitting, processes, work
from tunery.run.encode import max_prompt
from tunery.run.prepare import Prepared
from tunery.run.records import say
from tunery.rundir import RunDir

VERSION = 2
"""Of the measurements; raised when older ones no longer fit what train does."""
FREE = {
    "train": (
        *("epochs", "max_steps", "lr", "schedule", "warmup", "weight_decay", "clip", "patience", "min_delta", "keep"),
        *("checkpoint_every", "seed", "trackers", "batch_size", "accumulate"),
    ),
    "data": ("train", "validation", "test", "fold", "folds"),
    "eval": ("every", "generate_rows", "base", "test"),
    "model": ("name", "revision", "dtype", "device"),
}
"""Keys of the configuration that a measurement does not depend on, or that are in the key by other means."""
SAMPLE = 128
"""Rows whose prompts are rendered to know their lengths."""


def shape_of(prepared: Prepared) -> work.Shape:
    """The work that training would be. Raises DataError for a prompt that does not fit."""
    config = prepared.config
    training = work.training_work(prepared.splits["train"].rows, config.train, prepared.joined)
    held = prepared.scored
    batch, tokens = config.eval.batch_size, config.train.micro_tokens
    rows = {name: prepared.splits[name].rows for name in ("train", "validation")}
    watched = overfitting.sample(rows["train"], len(rows["validation"]))
    return work.Shape(
        step=training.step,
        steps=training.steps,
        per_epoch=training.per_epoch,
        largest=training.largest,
        kinds=training.kinds,
        every=training.per_epoch if config.eval.every == "epoch" else int(config.eval.every),
        checkpoint_every=config.train.checkpoint_every,
        base=config.eval.base,
        reading={name: work.reading_work(prepared.splits[name].rows, batch, tokens) for name in held},
        watched=work.reading_work(watched, batch, tokens),
        answers={name: _answers(prepared, asked) for name in held if len(asked := asked_of(prepared, name))},
    )


def replaced(prepared: Prepared, train: TrainConfig) -> Prepared:
    """The same rows under other settings of training."""
    return replace(prepared, config=prepared.config.model_copy(update={"train": train}))


def asked_of(prepared: Prepared, split: str) -> Sequence[Example]:
    """The rows of a split whose answers are generated after training."""
    task, config = prepared.task, prepared.config
    if not work.writes(task, config.eval.metrics):
        return ()
    most = config.eval.generate_rows if split == "validation" else None
    asked = [example for example in prepared.splits[split].examples if task.reference(example)]
    return asked[:most]


def prompts_of(prepared: Prepared, asked: Sequence[Example]) -> list[list[int]]:
    """Token ids to generate from. Raises DataError."""
    longest = max_prompt(prepared.config, prepared.base)
    return [soft.prompt(prepared.task, example, prepared.base.tokenizer, longest) for example in asked]


def _answers(prepared: Prepared, asked: Sequence[Example]) -> work.Answers:
    seen = work.evenly(asked, SAMPLE)
    tokenizer = prepared.base.tokenizer
    written = [len(tokenizer(prepared.task.reference(e)[0], add_special_tokens=False)["input_ids"]) for e in seen]
    return work.Answers([len(ids) for ids in prompts_of(prepared, seen)], written, len(asked))


def key_of(prepared: Prepared) -> str:
    """Hash of all that times and memory of this training depend on, beside its shape."""
    config, base = prepared.config, prepared.base
    values = {
        name: {key: value for key, value in section.items() if key not in FREE.get(name, ())}
        for name, section in config.dump().items()
        if isinstance(section, dict) and name != "run"
    }
    machine_ = [str(base.device), str(base.dtype), torch.get_num_threads()]
    parts = [VERSION, values, sorted(prepared.dataset.hashes.values()), base.hash(), machine_]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def place(key: str) -> Path:
    return cache.root() / "plans" / f"{key}.json"


def keep(key: str, measured: cost.Measured) -> None:
    """A cache that cannot be written changes nothing but that runs are not predicted."""
    with contextlib.suppress(TuneryError):
        rundir.write_json(place(key), {"version": VERSION, "measured": measured.to_json()})


def find(key: str) -> cost.Measured | None:
    """What a plan has measured, if there is any that can be read."""
    try:
        values = json.loads(place(key).read_text(encoding="utf-8"))
        return cost.Measured.from_json(values["measured"]) if values["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of(prepared: Prepared, measured: cost.Measured, shape: work.Shape) -> cost.Prediction:
    return cost.foresee(measured, shape, prepared.config.eval.batch_size, prepared.config.eval.max_new_tokens)


# ------------------------------------------------------------------------------------------------ in a run


class Foreseen:
    """The prediction of one run: made at its beginning, compared at its end. Never in the way of the training."""

    def __init__(self, run: RunDir, prepared: Prepared) -> None:
        self.run, self.prepared = run, prepared
        self.measured: cost.Measured | None = None
        self.shape: work.Shape | None = None
        if processes.several():
            return
        with contextlib.suppress(TuneryError):
            self.measured = find(key_of(prepared))
            self.shape = shape_of(prepared) if self.measured else None

    def at_start(self) -> None:
        """``predicted`` in the manifest, where a plan has measured this configuration."""
        if self.measured is None or self.shape is None:
            return
        found = of(self.prepared, self.measured, self.shape)
        self.run.update_manifest(predicted=found.to_json())
        about = f", {found.peak_memory.value / 1e9:.2f} GB of memory at most" if found.peak_memory else ""
        low, high = found.seconds.low, found.seconds.high
        say(f"predicted by tunery plan: {found.seconds.value:.0f} s ({low:.0f} to {high:.0f}){about}")

    def at_end(self, seconds: float | None) -> None:
        """``prediction_error`` in the manifest: predicted / actual - 1.

        Args:
            seconds: wall time of the whole run; None if it was interrupted, and so has no time to compare.
        """
        manifest = self.run.manifest()
        predicted = manifest.get("predicted")
        if seconds is not None:
            self.run.update_manifest(wall_seconds=round(seconds, 3))
        if not isinstance(predicted, dict):
            return
        errors: dict[str, float | None] = {"seconds": None, "peak_memory_bytes": None}
        if seconds and self.measured and self.shape:
            # after an early stop, for the steps that were made
            found = of(self.prepared, self.measured, self.shape.until(int(manifest["steps"])))
            errors["seconds"] = round(found.seconds.value / seconds - 1, 4)
        peak = manifest.get("peak_memory_bytes")
        if peak and predicted.get("peak_memory_bytes"):
            errors["peak_memory_bytes"] = round(predicted["peak_memory_bytes"] / peak - 1, 4)
        self.run.update_manifest(prediction_error=errors)
        told = [f"{name} {error:+.0%}" for name, error in (("time", errors["seconds"]),
                ("memory", errors["peak_memory_bytes"])) if error is not None]  # fmt: skip
        if told:
            say(f"the prediction was off by: {', '.join(told)}")


def adapter_bytes(folder: Path) -> int:
    """Size of what a method saved: the weights, not tokenizer and JSON beside them."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
