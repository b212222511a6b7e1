"""Whether a training worked, in one sentence: beside the untouched model and the best guess without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunery import stats
from tunery.report import intervals, words
from tunery.report.intervals import Interval
from tunery.report.records import LOSSES, Evaluation, Records

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Judged:
    """What the sentence is made of."""

    number: str
    evaluation: Evaluation
    value: float
    interval: Interval | None
    base: float | None
    against_base: int | None
    """1: better than the base, -1: worse, 0: rows cannot tell; None: there is no comparing."""
    baseline: tuple[str, float] | None
    """Name and number of the best one."""
    against_baseline: int | None
    losses: tuple[float, float] | None
    """Before and after, of a task that writes text and is judged by something else."""


def sentence(records: Records) -> str:
    """One sentence on what was done and what came of it."""
    status = records.manifest.get("status")
    done = _done(records)
    if status != "completed":
        problem = records.manifest.get("problem")
        return f"This run is {status}: {done}{f' ({problem})' if problem else ''}."
    found = judge(records)
    if found is None:
        return f"Finished without a score: {done}."
    return f"{_outcome(found)}: {done} and reaches {_reached(found)}{_beside(found)}."


def judge(records: Records) -> Judged | None:
    """None for a run without numbers."""
    evaluation = records.judged_by
    number = intervals.headline(list(evaluation.metrics)) if evaluation else None
    if evaluation is None or number is None:
        return None
    sign = 1 if intervals.higher_is_better(number) else -1
    value, base = evaluation.metrics[number], records.base(evaluation)
    found = intervals.of(evaluation).get(number)
    best = _best_baseline(evaluation, number, sign)
    return Judged(
        number,
        evaluation,
        value,
        found,
        base.metrics.get(number) if base else None,
        _against_base(evaluation, base, number, sign) if base else None,
        best,
        _outside(best[1], value, found, sign) if best else None,
        _losses(evaluation, base, number) if base else None,
    )


def _losses(tuned: Evaluation, base: Evaluation, number: str) -> tuple[float, float] | None:
    writes = number not in LOSSES and all({"loss", "perplexity"} <= one.metrics.keys() for one in (tuned, base))
    return (base.metrics["loss"], tuned.metrics["loss"]) if writes else None


def _best_baseline(evaluation: Evaluation, number: str, sign: int) -> tuple[str, float] | None:
    known = [(name, values[number]) for name, values in evaluation.baselines.items() if number in values]
    return max(known, key=lambda item: sign * item[1]) if known else None


def _against_base(tuned: Evaluation, base: Evaluation, number: str, sign: int) -> int | None:
    """By the same rows of both where they are known, else by the number alone."""
    if number not in base.metrics:
        return None
    difference = sign * (tuned.metrics[number] - base.metrics[number])
    pairs = _pairs(tuned, base, number)
    if pairs is None:
        inside = intervals.of(tuned).get(number)
        return _outside(base.metrics[number], tuned.metrics[number], inside, sign)
    certain = _differ([a for a, _ in pairs], [b for _, b in pairs])
    return 0 if not certain or difference == 0 else 1 if difference > 0 else -1


def _pairs(tuned: Evaluation, base: Evaluation, number: str) -> list[tuple[float, float]] | None:
    ours, theirs = intervals.row_scores(tuned, number), intervals.row_scores(base, number)
    if ours is None or theirs is None:
        return None
    places = [[row.get("where") for row in evaluation.predictions] for evaluation in (tuned, base)]
    if places[0] != places[1]:
        return None
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]


def _differ(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether chance would rarely make that difference: McNemar for right and wrong, else the paired bootstrap."""
    if set(a) | set(b) <= {0.0, 1.0}:
        gained, lost = (sum(x > y for x, y in pairs) for pairs in (zip(a, b, strict=True), zip(b, a, strict=True)))
        return stats.mcnemar(gained, lost) < SIGNIFICANT
    _, low, high = stats.paired_bootstrap(a, b)
    return not low <= 0 <= high


def _outside(other: float, value: float, interval: Interval | None, sign: int) -> int:
    """1: ``value`` is better than ``other`` and its interval does not reach that far."""
    if interval is not None and interval[0] <= other <= interval[1]:
        return 0
    return (sign * value > sign * other) - (sign * value < sign * other)


# ------------------------------------------------------------------------------------------------ words


def _done(records: Records) -> str:
    manifest = records.manifest
    rows = (manifest.get("rows") or {}).get("train")
    what = f"{records.named('method')} on {records.named('model')}"
    learnt = f" learnt {records.named('task')}" + (f" from {rows:,} rows" if rows else "")
    if manifest.get("status") != "completed":
        return f"{what},{learnt.replace(' learnt', ' task', 1)}"
    steps, seconds = manifest.get("steps"), manifest.get("seconds")
    if steps == 0:
        return f"{what} was not trained (no steps)"
    return f"{what}{learnt}" + (f" in {steps:,} steps ({words.duration(seconds)})" if steps and seconds else "")


def _outcome(found: Judged) -> str:
    if found.against_base == -1:
        return "It did harm"
    if found.against_base == 0:
        return "No effect can be shown"
    if found.against_baseline == -1 and found.baseline:
        return f"It is worse than {found.baseline[0]}, which needs no model"
    if found.against_baseline == 0 and found.baseline:
        return f"It is not clearly better than {found.baseline[0]}, which needs no model"
    if found.against_base is None and found.against_baseline is None:
        return "Trained"
    return "It worked"


def _reached(found: Judged) -> str:
    rows = found.evaluation.rows if found.number in LOSSES else found.evaluation.answered
    where = f"on {rows:,} {found.evaluation.name} rows"
    if found.interval is None:
        return f"{found.number} {words.score(found.value)} {where}"
    low, high = (words.score(end) for end in found.interval)
    return f"{found.number} {words.score(found.value)} (95 % interval {low} to {high}) {where}"


def _beside(found: Judged) -> str:
    parts = []
    if found.base is not None:
        parts.append(f"the untouched model has {words.score(found.base)}")
    if found.baseline is not None:
        parts.append(f"the best guess without a model, {found.baseline[0]}, {words.score(found.baseline[1])}")
    text = f"; {' and '.join(parts)}" if parts else ""
    if found.losses:
        text += f"; the loss of the answers went from {words.score(found.losses[0])} to {words.score(found.losses[1])}"
    return text
