"""Row by row: how good each entrant of a race is, and by how much one is better than another."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tunery import scoring, stats
from tunery.protocols import Scored
from tunery.rundir import read_jsonl

MEASURES = {"classes": "accuracy", "multilabel": "f1_samples", "numbers": "mae", "tags": "token_accuracy"}
"""What a single row can be scored by, for each kind of prediction."""
EVEN = "recall_macro"
"""Where classes are uneven: each weighs as much as another."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that is a mean over rows."""

    name: str
    kind: str
    uneven: bool = False

    @property
    def higher_is_better(self) -> bool:
        return scoring.number_names()[self.name].higher_is_better


def measure_of(kinds: Sequence[str], metrics: Sequence[str], uneven: bool) -> Measure | None:
    """What rows of a task are compared by; None for a task that predicts nothing.

    Args:
        kinds, metrics: of the task.
        uneven: whether accuracy would say little about its classes.

    >>> measure_of(("text", "loss"), ("f1", "loss"), False).name
    'f1'
    """
    kind = kinds[0]
    if kind == "loss":
        return None
    if kind == "classes":
        return Measure(EVEN if uneven else "accuracy", kind, uneven)
    return Measure(MEASURES.get(kind) or ("f1" if "f1" in metrics else "rougeL"), kind)


def score_rows(records: Sequence[Mapping[str, Any]], measure: Measure) -> list[float]:
    """One score a record with ``prediction`` and ``reference``. Their mean is the measure's number."""
    if measure.kind == "classes":
        right = [float(str(r["prediction"]) == str(r["reference"])) for r in records]
        if not measure.uneven:
            return right
        counts = Counter(str(r["reference"]) for r in records)
        weights = [len(records) / (len(counts) * counts[str(r["reference"])]) for r in records]
        return [score * weight for score, weight in zip(right, weights, strict=True)]
    return [_single(record, measure) for record in records]


def _single(record: Mapping[str, Any], measure: Measure) -> float:
    prediction, reference = plain(record["prediction"]), plain(record["reference"])
    if measure.kind == "tags":  # a row's share of right tags
        return fmean(float(p == r) for p, r in zip(prediction, reference, strict=True)) if reference else 1.0
    labels = tuple(sorted({*prediction, *reference})) if measure.kind == "multilabel" else ()
    if measure.kind == "numbers":
        return abs(float(prediction) - float(reference))
    found = scoring.score(Scored([prediction], [reference], labels=labels), [measure.name], (measure.kind,))
    return found.get(measure.name, 0.0)


def plain(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(value) if isinstance(value, list) else value


def read(file: Path) -> list[dict[str, Any]]:
    """Records of a ``predictions.jsonl`` that have a reference; none if there is no such file."""
    return [record for record in read_jsonl(file) if "reference" in record]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of ``first - second`` over the rows that both were scored on, better being positive."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    rows: int

    @property
    def tie(self) -> bool:
        return self.low <= 0 <= self.high

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tie": self.tie}


@dataclass(slots=True)
class Candidate:
    """Who may win: its scores by seed and row."""

    name: str
    kind: str
    """``baseline``, ``control`` or ``method``."""
    scores: dict[tuple[int, str], float] = field(default_factory=dict)
    """By seed and place of the row."""
    bytes: int = 0
    """That must be kept beside the base."""
    seconds: float = 0.0
    few_shot: bool = False

    @property
    def mean(self) -> float:
        return fmean(self.scores.values())


def compare(first: Candidate, second: Candidate, higher_is_better: bool, confidence: float = 0.95) -> Difference | None:
    """The paired bootstrap over rows; a row that several seeds were scored on counts once, with its mean. None if
    no row is scored for both.
    """
    sign = 1 if higher_is_better else -1
    # a baseline is fitted once a split: its scores hold for the entrant's seed of the same split
    shared = sorted(first.scores.keys() & second.scores.keys())
    if not shared:
        return None
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in shared:
        rows[key[1]].append((sign * first.scores[key], sign * second.scores[key]))
    a, b = ([fmean(pair[side] for pair in pairs) for pairs in rows.values()] for side in (0, 1))
    difference, low, high = stats.paired_bootstrap(a, b, confidence)
    return Difference(first.name, second.name, difference, low, high, len(rows))


def front(points: Sequence[Mapping[str, Any]], better: Mapping[str, bool]) -> list[str]:
    """Names of the points that no other beats in one respect without losing in another (Pareto).

    Args:
        better: the respects; True: more is better. A missing value neither wins nor loses.

    >>> front([{"name": "a", "score": 1, "s": 9}, {"name": "b", "score": 1, "s": 8}], {"score": True, "s": False})
    ['b']
    """

    def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        pairs = [(a[k], b[k], more) for k, more in better.items() if a.get(k) is not None and b.get(k) is not None]
        at_least = all(x >= y if more else x <= y for x, y, more in pairs)
        return at_least and any(x != y for x, y, _ in pairs)

    return [str(p["name"]) for p in points if not any(beats(q, p) for q in points if q is not p)]
