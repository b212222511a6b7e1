"""What every cell of the common suite must show, as far as the process that trains it can see.

Each check raises AssertionError; ``run`` goes through them all, so that one defect does not hide the next.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suite_cells import (
    LAST,
    STEPS,
    THOROUGH,
    Cell,
    Found,
    Made,
    anew,
    outputs,
    prepared,
    record,
    texts,
    train,
    trainer,
    write_rows,
)
from tunery.errors import ConfigError, ModelError
from tunery.models import weights
from tunery.run import build
from tunery.run.prepare import Prepared
from tunery.rundir import RunDir, write_json
from tunery.train import checkpoint

TOLERANCE = 1e-4
"""Of the largest value. Sums in another order differ by a hundredth of it; padding that counts, by far more."""
REMAINS = {"adapter": (0.7, 0.9), "bitfit": (0.7, 0.9), "ia3": (0.7, 0.9)}
REMAINS |= dict.fromkeys(("prefix", "prompt", "p_tuning"), (0.9, 0.99))
"""Share of the loss that may be left, where not a half, with a new head and with the language model's own. Frozen
random layers and embeddings give a few vectors little to work with; what they can do is shown on real models."""
HEADER = 250
"""Bytes that a safetensors file may spend on a tensor's name and shape, twice that on itself."""


class Trained:
    """A cell while it is being trained: the base before, the model after."""

    def __init__(self, cell: Cell, made: Prepared, run: RunDir) -> None:
        self.cell, self.made, self.run = cell, made, run
        self.pad = made.base.tokenizer.pad_token_id or 0
        self.rows = made.splits["train"].rows
        self.bare = [row.without_soft() for row in self.rows]
        task, method = made.task, made.method
        model, head = build.with_head(made.base, task, made.config)
        self.loss_before, self.base_outputs = outputs(model, task, self.bare, self.pad)
        self.base = {name for name, _ in model.named_parameters()}
        if reason := method.refuses(task, model):
            raise RefusedError(reason)
        build.attach(method, task, model, head, made.config)
        self.now = Made(task, method, model, head, trainer(made, run, made.config, task, method, model))
        self.start = {name: p.detach().clone() for name, p in weights.trainable(model).items()}
        self.frozen = frozen(model)

    def tuned(self) -> build.Tuned:
        now = self.now
        return build.Tuned(self.made.base, now.task, now.method, now.model, now.head)


class RefusedError(Exception):
    """The method's own words."""


def frozen(model: nn.Module) -> str:
    return weights.digest({name: p for name, p in model.named_parameters() if not p.requires_grad})


def close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} instead of {tuple(expected.shape)}"
    largest = float(expected[expected.abs() < 1e30].abs().max()) if expected.numel() else 0.0
    apart = float((found - expected).abs().nan_to_num().max()) if expected.numel() else 0.0
    assert apart <= TOLERANCE * max(largest, 1e-6), f"{what}: {apart:.2e} apart, values up to {largest:.2e}"


# --------------------------------------------------------------------------------------------- checks


def overfits(case: Trained) -> None:
    """Eight rows: less than half of the loss is left, or what ``REMAINS`` says."""
    loss, _ = outputs(case.now.model, case.now.task, case.rows, case.pad)
    most = REMAINS.get(case.cell.method, (0.5, 0.5))[not case.now.head]
    assert loss < most * case.loss_before, f"loss {case.loss_before:.3f} → {loss:.3f}"


def frozen_stays(case: Trained) -> None:
    assert frozen(case.now.model) == case.frozen, "weights that are not trained have changed"


def parameters(case: Trained) -> None:
    """The groups name each trained parameter once; a gradient reached all that are new."""
    groups = case.now.method.groups(case.now.model)
    named = [name for group in groups for name, _ in group["named"]]
    assert sorted(named) == sorted(case.start), "the optimizer's groups are not the parameters that need gradients"
    assert all(group["lr_scale"] > 0 for group in groups)
    after = weights.trainable(case.now.model)
    assert after.keys() == case.start.keys(), "training changed which parameters are trained"
    state = case.now.trainer.optimizer.state()
    still = [n for n in after if n not in case.base and not state.get(f"exp_avg/{n}", torch.zeros(1)).any()]
    assert not still, f"no gradient ever reached {len(still)} trained parameters, for example {still[0]}"


def single(case: Trained) -> None:
    """A batch gives what its rows give alone: loss, logits, text."""
    model, task = case.now.model, case.now.task
    loss, batch = outputs(model, task, case.rows, case.pad)
    alone = [outputs(model, task, [row], case.pad) for row in case.rows]
    counts = [row.supervised for row in case.rows]
    mean = sum(each * count for (each, _), count in zip(alone, counts, strict=True)) / sum(counts)
    assert abs(loss - mean) <= TOLERANCE * max(abs(mean), 1e-2), f"loss {loss} together, {mean} alone"
    if task.output == "text":
        close(torch.cat([out for _, out in alone]), batch, "logits")
    else:
        for number, (_, out) in enumerate(alone):
            part = batch[number]
            for place, size in enumerate(out.shape[1:]):  # positions of padding do not count
                part = part.narrow(place, 0, size)
            close(part, out[0], f"logits of row {number}")
    examples, tokenizer = case.made.splits["train"].examples, case.made.base.tokenizer
    together = texts(model, task, tokenizer, examples, 8)
    assert together == texts(model, task, tokenizer, examples, 1), "greedy text depends on the batch"


def size(case: Trained) -> None:
    """No file is larger than what was trained; what the method saves for other programs is a file of its own."""
    case.tuned().save(case.run.model)
    files = [path for path in case.run.model.rglob("*") if path.is_file()]
    stored = [path.stat().st_size for path in files if path.suffix == ".safetensors"]
    state = case.now.method.train_state(case.now.model)
    trained = [*weights.trainable(case.now.model).values(), *state.values()]
    most = sum(4 * p.numel() + HEADER for p in trained) + 2 * HEADER
    assert stored, "no weights are stored"
    assert max(stored) <= most, f"{max(stored)} bytes are stored, {most} are trained"
    others = [path.name for path in files if path.suffix not in (".safetensors", ".json", ".jinja", ".txt")]
    assert not others, f"neither safetensors nor JSON: {others}"


def resumes(case: Trained) -> None:
    """Stopped before the last steps and resumed by a new model: bitwise the same."""
    again = anew(case.made, case.run)
    path = checkpoint.newest(case.run.checkpoints)
    assert path is not None
    assert path.name.endswith(f"{STEPS - LAST:06d}"), "the checkpoint to resume from"
    assert again.trainer.resume()
    train(again.trainer)
    expected, found = weights.trainable(case.now.model), weights.trainable(again.model)
    assert found.keys() == expected.keys()
    other = [name for name, p in expected.items() if not torch.equal(p, found[name])]
    assert not other, f"{len(other)} parameters are others after resuming, for example {other[0]}"
    state, resumed = case.now.method.train_state(case.now.model), again.method.train_state(again.model)
    assert state.keys() == resumed.keys()
    assert all(torch.equal(state[name], resumed[name]) for name in state), "the method's state after resuming"


def accumulates(case: Trained) -> None:
    """Four times two rows teach what eight teach at once; so they do with gradient checkpointing, which changes memory
    and time only.
    """
    parts = {"batch_size": 2, "accumulate": 4}
    expected = gradients(case)
    try:
        found = gradients(case, gradient_checkpointing=True, **parts)
    except ConfigError as error:  # a model that has no checkpointing says so
        assert error.where == "train.gradient_checkpointing", error
        found = gradients(case, **parts)
    apart = difference(expected, found)
    if apart:  # which of the two is it?
        apart = f"accumulated: {difference(expected, gradients(case, **parts)) or 'equal'}; checkpointed: {apart}"
    assert not apart, apart


def difference(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> str:
    """Where losses or gradients are not the same, or nothing."""
    (loss, expected), (same, found) = one, other
    if abs(loss - same) > TOLERANCE * max(loss, 1e-2):
        return f"loss {loss} and {same}"
    if found.keys() != expected.keys():
        return "other parameters have gradients"
    largest = max(float(g.abs().max()) for g in expected.values())
    apart = {name: float((grad - found[name]).abs().max()) for name, grad in expected.items()}
    worst = max(apart, key=apart.__getitem__)
    if apart[worst] > 10 * TOLERANCE * largest:
        return f"gradient of {worst}: {apart[worst]:.2e} apart, up to {largest:.2e}"
    return ""


def gradients(case: Trained, **train: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss, and the first moments after one step: a fixed share of the (clipped) gradients.

    Away from the start, where a product of zeros (LoRA's B) has no gradient.
    """
    fresh = anew(case.made, case.run, dropout=0.0, **train)
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in weights.trainable(fresh.model).values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise)
    fresh.model.train()
    loss = fresh.trainer.step()["loss"]
    state = fresh.trainer.optimizer.state()
    return loss, {name: t for name, t in state.items() if name.startswith("exp_avg/")}


CHECKS: list[Callable[[Trained], None]] = [overfits, frozen_stays, parameters, single, size]
MORE: list[Callable[[Trained], None]] = [resumes, accumulates]


def run(cell: Cell, models: Path, folder: Path) -> Found:
    """Train a cell and check it; its run is then ready to be loaded by another process."""
    directory = RunDir.create(folder, str(cell))
    found = Found(directory.path)
    try:
        made = prepared(cell, models, folder)
        case = Trained(cell, made, directory)
    except RefusedError as error:
        found.refused = str(error)
        if not all(part.strip() for part in str(error).partition(";")):
            found.failed["refusal"] = f"not of the form 'problem; alternative': {error}"
        return found
    except (ConfigError, ModelError) as error:
        found.refused = f"{error.problem}; {error.hint}".replace(str(models), "").replace(f"/{cell.model}", cell.model)
        if not error.hint:
            found.failed["refusal"] = f"no alternative is named: {error}"
        return found
    found.trainable = sum(p.numel() for p in case.start.values())
    with failing("trains", found):
        train(case.now.trainer)
        for check in [*CHECKS, *(MORE if cell.model in THOROUGH else [])]:
            with failing(check.__name__, found):
                check(case)
        leave(case)
    return found


@contextmanager
def failing(name: str, found: Found) -> Any:
    """Note what goes wrong and go on."""
    try:
        yield
    except Exception as error:  # whatever a method raises is a failure of the check
        lines = str(error).strip().splitlines() or [""]
        found.failed[name] = f"{type(error).__name__}: {lines[0][:300]}"


def leave(case: Trained) -> None:
    """What the process that loads the run compares with."""
    record(case.run, case.made)
    now = case.now
    _, tuned = outputs(now.model, now.task, case.rows, case.pad)
    weights.save({"tuned": tuned, "base": case.base_outputs}, case.run.path / "expected.safetensors")
    write_rows(case.rows, case.run.path / "rows.json")
    examples = case.made.splits["train"].examples[:2]
    words = texts(now.model, now.task, case.made.base.tokenizer, examples, 2)
    write_json(case.run.path / "expected.json", {"texts": words, "parameters": sorted(case.base)})
    case.run.update_manifest(status="completed")
