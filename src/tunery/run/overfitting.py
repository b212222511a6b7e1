"""The gap between the loss of training rows and that of validation rows, and the step from which it grew.

The loss that training logs is no fair partner for the validation loss: it has dropout in it, and each of its steps
saw other rows with other weights. So at each evaluation, and once on the base, the loss of some training rows is
measured as that of the validation rows is. They are always the same ones, so that what differs between the two sets
of rows is there from the beginning and is not taken for overfitting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunery.evaluate import Results, Settings, loss_and_outputs, readable
from tunery.protocols import Encoded, Task
from tunery.rundir import RunDir, read_jsonl

ROWS, TOKENS = 64, 8192
"""Training rows that are measured: no more than these, nor than there are validation rows, nor of so many tokens."""
SMALL = 0.1
"""Share of the validation loss: a gap that is larger by less than this than the smallest one has not grown."""

RISE = 0.01
"""Share of the lowest validation loss by which the last one must exceed it to have risen."""


def sample(rows: Sequence[Encoded], validation: int) -> list[Encoded]:
    """Training rows from all over the data, always the same ones; one at least."""
    count = max(min(ROWS, validation, len(rows)), 1)
    found: list[Encoded] = []
    tokens = 0
    for i in range(count):
        row = rows[i * len(rows) // count]
        tokens += row.length
        if found and tokens > TOKENS:
            break
        found.append(row)
    return found


@dataclass(slots=True)
class Watch:
    """Evaluates a model in training and remembers both losses.

    Args:
        scores: evaluates the validation rows.
        rows: training rows, see ``sample``.
    """

    model: nn.Module
    task: Task
    rows: list[Encoded]
    settings: Settings
    pad_id: int
    scores: Callable[[], Results]
    validation: float = 0.0

    def evaluate(self) -> dict[str, float]:
        """The validation metrics."""
        found = self.scores()
        self.validation = found.loss
        return found.metrics

    def losses(self) -> dict[str, float]:
        """Of training and validation rows, with the weights of the last ``evaluate``."""
        return {"training": self.training(), "validation": self.validation}

    def training(self) -> float:
        rows = readable(self.model, self.rows)
        total, count, _ = loss_and_outputs(self.model, self.task, rows, self.pad_id, self.settings)
        return total / max(count, 1)


@dataclass(frozen=True, slots=True)
class At:
    """Both losses after a step."""

    step: int
    training: float
    validation: float

    @property
    def gap(self) -> float:
        return self.validation - self.training


def found(run: RunDir, base: dict[str, float] | None, kept_step: int) -> dict[str, Any] | None:
    """``overfitting`` of the manifest, from the losses in metrics.jsonl; None if nothing was evaluated.

    Args:
        base: both losses of the bare base.
        kept_step: whose weights the run keeps.
    """
    if not run.metrics_file.exists():
        return None
    points = [At(int(r["step"]), **r["losses"]) for r in read_jsonl(run.metrics_file) if "losses" in r]
    if not points:
        return None
    return summarise([At(0, **base), *points] if base else points, kept_step)


def summarise(points: Sequence[At], kept_step: int) -> dict[str, Any]:
    """Gap at the last evaluation, and the step from which it grew (None: it did not).

    It has grown if it is larger than the smallest gap by more than ``SMALL`` of the validation loss; it grew from the
    last evaluation on at which that was not so.
    """
    last = points[-1]
    smallest, allowed = min(point.gap for point in points), SMALL * last.validation
    since = None
    if last.gap - smallest > allowed:
        since = next(point.step for point in reversed(points) if point.gap - smallest <= allowed)
    lowest = min(points, key=lambda point: point.validation)
    kept = next((point for point in points if point.step == kept_step), last)
    return {
        "gap": last.gap,
        "since_step": since,
        "training_loss": last.training,
        "validation_loss": last.validation,
        "lowest_validation_loss": lowest.validation,
        "lowest_at_step": lowest.step,
        "rose": last.validation > lowest.validation * (1 + RISE),
        "kept_step": kept.step,
        "kept_gap": kept.gap,
    }
