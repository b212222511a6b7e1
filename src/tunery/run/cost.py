"""What a training costs in seconds and memory, from a few measured pieces of it.

A piece (a forward pass of evaluation, an optimizer step, a few tokens of an answer) takes time that is close to linear
in its *work* (see ``work.py``). ``Points`` are pieces that were measured; ``foresee`` brings them together with the
work of a whole training. Coefficients are fitted with least squares of the *relative* error and are never negative
(Lawson & Hanson 1974, by scipy), so that a fit to few points stays sane. The interval is the jackknife's over the
measured pieces (Tukey 1958): it knows their spread, not that the machine may have other things to do later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tunery.run.work import READ, Answers, Shape, Work

CONFIDENCE = 0.95
NEAR = 0.15
"""A largest forward pass that differs by more than this share says nothing of memory."""
KINDS = 64
"""Sizes of passes for which kernels are kept: oneDNN's cache holds 1,024 of them, and a size needs 16 or so."""


class Span(NamedTuple):
    """A number with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def sure(cls, value: float) -> Span:
        return cls(value, value, value)

    def times(self, factor: float) -> Span:
        return Span(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, other: Span) -> Span:
        """Ends add up: the parts of one training are slow together."""
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(slots=True)
class Points:
    """Pieces that were measured: the work of each and its seconds."""

    work: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, work: Sequence[float] | Work, seconds: float) -> None:
        self.work.append([float(number) for number in work])
        self.seconds.append(seconds)

    def total(self, work: Work) -> Span:
        """Seconds of so much work."""
        count = len(self.seconds)
        if not count or not work.any():
            return Span.sure(0.0)
        value = float(self._coefficients(range(count)) @ work)
        if count < 3:  # nothing to tell a spread from: the slowest and fastest rate that was seen
            rates = [s / max(_bulk(w), 1.0) for w, s in zip(self.work, self.seconds, strict=True)]
            return Span(value, value * min(rates) / max(rates), value * max(rates) / min(rates))
        others = np.array([float(self._coefficients([j for j in range(count) if j != i]) @ work) for i in range(count)])
        half = _student(count - 1) * math.sqrt((count - 1) / count * float(((others - others.mean()) ** 2).sum()))
        return Span(value, max(value - half, 0.0), value + half)

    def _coefficients(self, which: Sequence[int]) -> Work:
        from scipy.optimize import nnls

        seconds = np.array([self.seconds[i] for i in which])
        work = np.array([self.work[i] for i in which]) / seconds[:, None]
        size = np.maximum(work.max(axis=0), 1e-12)
        return np.asarray(nnls(work / size, np.ones(len(seconds)))[0] / size)


def _bulk(work: Sequence[float]) -> float:
    """The one number that stands for a piece of work: its tokens."""
    return float(work[1] or work[0])


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


@dataclass(slots=True)
class Measured:
    """What was measured of one configuration; goes through JSON."""

    loading: float
    """Seconds for data, base and method."""
    baselines: float
    base_reading: Points
    reading: Points
    step: Points
    """When a pass of that size was made before."""
    first: float
    """Seconds more that the first pass of each size takes: kernels are made for it."""
    checkpoint: float
    saving: float
    writing: Points
    """Of the base model's answers."""
    writing_ratio: float
    """How much longer the tuned model takes for the same."""
    base_answers: list[int]
    """Tokens of the answers that the base gave."""
    largest: tuple[int, int]
    kinds: int
    """Sizes of passes that were met in measuring."""
    peak_memory: int
    """Bytes, of measuring."""
    growth: float
    """Bytes that each further size of passes adds: the kernels made for it stay."""
    extra: dict[str, float] = field(default_factory=dict)
    """Seconds of what else a run does, by name."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measured:
        """Raises KeyError, TypeError, ValueError for what is no measurement."""
        given = dict(values)
        for name in ("base_reading", "reading", "step", "writing"):
            given[name] = Points(**given[name])
        given["largest"] = tuple(given["largest"])
        return cls(**given)

    def memory(self, shape: Shape) -> Span | None:
        """Peak of a training, or None if its passes are of another size than those that were measured."""
        if any(abs(a - b) > NEAR * max(a, b) for a, b in zip(self.largest, shape.largest, strict=True)):
            return None
        more = self.growth * max(min(shape.kinds, KINDS) - self.kinds, 0)
        return Span(self.peak_memory + more, self.peak_memory, self.peak_memory + 2 * more)


@dataclass(slots=True)
class Prediction:
    """Seconds of a training from its first line to its last, and the largest memory on the way."""

    seconds: Span
    parts: dict[str, Span]
    peak_memory: Span | None

    def to_json(self) -> dict[str, Any]:
        memory = self.peak_memory
        return {
            "seconds": round(self.seconds.value, 2),
            "seconds_interval": [round(self.seconds.low, 2), round(self.seconds.high, 2)],
            "parts": {name: round(part.value, 2) for name, part in self.parts.items()},
            "peak_memory_bytes": round(memory.value) if memory else None,
            "peak_memory_interval": [round(memory.low), round(memory.high)] if memory else None,
        }


def foresee(measured: Measured, shape: Shape, batch: int, most_tokens: int) -> Prediction:
    """Args: ``batch`` and ``most_tokens``: rows that are answered together, and the longest answer."""
    everything = sum(shape.reading.values(), np.zeros(READ))
    evaluation = shape.reading.get("validation", np.zeros(READ)) + shape.watched
    base = measured.writing
    no_answers = Answers([], [], 0)
    by_base, by_tuned = Span.sure(0.0), Span.sure(0.0)
    for split in shape.reading:
        answers = shape.answers.get(split, no_answers)
        longest = base.total(answers.work([most_tokens], batch, most_tokens))
        by_base = by_base.plus(base.total(answers.work(measured.base_answers, batch, most_tokens)))
        tuned = base.total(answers.work(answers.references, batch, most_tokens))
        # a tuned model that does not find the end writes on to the limit
        by_tuned = by_tuned.plus(Span(tuned.value, tuned.low, max(tuned.high, longest.value)))
    before = measured.base_reading.total(everything + shape.watched).plus(by_base)
    parts = {
        "loading": Span.sure(measured.loading),
        "baselines": Span.sure(measured.baselines),
        "scoring the base": before if shape.base else Span.sure(0.0),
        "steps": measured.step.total(shape.step).plus(Span.sure(measured.first * min(shape.kinds, shape.steps))),
        "evaluations": measured.reading.total(evaluation * shape.evaluations),
        "checkpoints": Span.sure(measured.checkpoint * shape.checkpoints),
        "final scores": measured.reading.total(everything).plus(by_tuned.times(measured.writing_ratio)),
        "saving": Span.sure(measured.saving),
        **{name: Span.sure(seconds) for name, seconds in measured.extra.items()},
    }
    total = Span.sure(0.0)
    for part in parts.values():
        total = total.plus(part)
    return Prediction(total, parts, measured.memory(shape))
