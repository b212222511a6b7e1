"""The work of a training, in numbers that its time is close to linear in: padded tokens, targets, passes and so on.

``Shape`` is the work of a whole training: it follows from the rows and the configuration, before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunery.config import TrainConfig
from tunery.data.batch import WHOLE, Batching, in_order
from tunery.data.encoded import lengths, supervised_each
from tunery.protocols import Encoded, Task

Work = NDArray[np.float64]
READ = 4
"""Numbers of the work of forward passes: passes, padded tokens, targets, rows x length²."""
STEP = READ + 1
"""Numbers of the work of optimizer steps: those of their passes, and the steps themselves."""
WRITE = 4
"""Numbers of the work of writing answers: prompt tokens, tokens a row, answers x tokens, and that x context."""
MIXED = 3
"""Epochs whose passes are looked at for their sizes: rows meet others in each."""
MOST = 2000
"""Steps or passes whose work is added up; of more, so many spread evenly stand for all."""


def pass_work(rows: Sequence[int], sizes: Sequence[int], targets: Sequence[int], joined: bool = False) -> Work:
    """Of one forward pass over these rows, padded or end to end."""
    supervised = sum(targets[i] for i in rows)
    if joined:
        tokens, squares = sum(sizes[i] for i in rows), sum(sizes[i] ** 2 for i in rows)
        return np.array([1, -(-tokens // WHOLE) * WHOLE, supervised, squares], dtype=float)
    longest = max(sizes[i] for i in rows)
    return np.array([1, len(rows) * longest, supervised, len(rows) * longest**2], dtype=float)


def kind(work: Work) -> tuple[float, float]:
    """What tells the size [rows, length] of a forward pass from others."""
    return float(work[1]), float(work[3])


def passes_of(rows: Sequence[int], sizes: Sequence[int], targets: Sequence[int], batching: Batching) -> list[Work]:
    """Of the forward passes of one optimizer step."""
    return [pass_work(cut, sizes, targets, batching.joined) for cut in batching.cut(rows, sizes)]


def evenly(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many, spread over all."""
    return list(values) if len(values) <= most else [values[i * len(values) // most] for i in range(most)]


@dataclass(slots=True)
class Answers:
    """Rows whose answers are generated: how long the prompts are, and the answers that stand in the data."""

    prompts: list[int]
    references: list[int]
    rows: int
    """How many are answered; the lists may be a sample of them."""

    def work(self, lengths_: Sequence[int], batch: int, most: int) -> Work:
        """Of generating them, were the answers so long (taken in turn), in batches as ``generate`` makes them."""
        if not self.prompts or not lengths_:
            return np.zeros(WRITE)
        written = [min(lengths_[i % len(lengths_)], most) for i in range(len(self.prompts))]
        order = sorted(range(len(self.prompts)), key=lambda i: self.prompts[i])
        total = np.zeros(WRITE)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            total += answers_work([self.prompts[i] for i in part], [written[i] for i in part], most)
        return total * (self.rows / len(self.prompts))


def answers_work(prompts: Sequence[int], written: Sequence[int], most: int) -> Work:
    """Of one batch. A row is computed until it has written its end, so once more than its answer is long."""
    longest = max(prompts)
    passes = min(most, max(written) + 1)
    alive = np.array([sum(n >= s for n in written) for s in range(passes)], dtype=float)
    context = longest + np.arange(passes)
    return np.array([len(prompts) * longest, passes, alive.sum(), float((alive * context).sum())])


@dataclass(slots=True)
class Shape:
    """The work of a whole training."""

    step: Work
    """Of all its optimizer steps."""
    steps: int
    per_epoch: int
    every: int
    """Steps between evaluations."""
    checkpoint_every: int | None
    base: bool
    """Whether the untouched model is scored before."""
    reading: dict[str, Work]
    """Of the forward passes over a split, by its name."""
    watched: Work
    """Of the forward passes over the training rows whose loss is watched at each evaluation."""
    answers: dict[str, Answers]
    largest: tuple[int, int]
    """Padded tokens and targets of the largest forward pass in training: what memory depends on."""
    kinds: int
    """Different sizes [rows, length] of forward passes in training: each costs time and memory of its own."""

    @property
    def evaluations(self) -> int:
        return math.ceil(self.steps / self.every)

    @property
    def checkpoints(self) -> int:
        if self.checkpoint_every:
            return self.steps // self.checkpoint_every
        return max(self.evaluations - 1, 0)

    def until(self, steps: int) -> Shape:
        """The same, had it ended after so many steps."""
        share = steps / self.steps if self.steps else 0.0
        return replace(self, step=self.step * share, steps=steps)


@dataclass(slots=True)
class Training:
    """The work of the steps of a training in one process; the fields are those of ``Shape``."""

    step: Work
    steps: int
    per_epoch: int
    largest: tuple[int, int]
    kinds: int
    longest: int
    """Tokens of the longest row."""


def training_work(rows: Sequence[Encoded], config: TrainConfig, joined: bool = False) -> Training:
    """Of an epoch that stands for all. ``joined``: rows lie end to end."""
    sizes, targets = lengths(rows), supervised_each(rows)
    per_step = config.batch_size * config.accumulate
    per_epoch = math.ceil(len(rows) / per_step)
    steps = math.ceil(config.epochs * per_epoch) if config.max_steps is None else config.max_steps
    batching = Batching(config, joined)
    epochs = [batching.plan(sizes, per_step, epoch) for epoch in range(MIXED)]
    seen = evenly(epochs[0][: min(steps, per_epoch)], MOST)
    works = [np.append(sum(passes_of(numbers, sizes, targets, batching)), 1.0) for numbers in seen]
    made = evenly([numbers for plan in epochs for numbers in plan][:steps], MOST)
    passes = [p for numbers in made for p in passes_of(numbers, sizes, targets, batching)]
    return Training(
        step=sum(works, np.zeros(STEP)) / max(len(works), 1) * steps,
        steps=steps,
        per_epoch=per_epoch,
        largest=(int(max((p[1] for p in passes), default=0)), int(max((p[2] for p in passes), default=0))),
        kinds=len({kind(p) for p in passes}),
        longest=max(sizes),
    )


def reading_work(rows: Sequence[Encoded], batch: int, tokens: int) -> Work:
    """Of the forward passes over all rows, as evaluation makes them."""
    sizes, targets = lengths(rows), supervised_each(rows)
    passes = in_order(sizes, batch, tokens)
    seen = evenly(passes, MOST)
    work = sum((pass_work(numbers, sizes, targets) for numbers in seen), np.zeros(READ))
    return work * (len(passes) / max(len(seen), 1))


def writes(task: Task, metrics: Sequence[str] | None) -> bool:
    """Whether evaluation has to generate answers."""
    from tunery import scoring

    wanted = metrics or task.metrics
    return task.output == "text" and any(scoring.metric_of(name).kind == "text" for name in wanted)
