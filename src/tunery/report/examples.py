"""Rows to look at: where the model was wrong although sure, and where it was right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tunery.report import intervals, words
from tunery.report.page import Block, Sample, Samples, Text
from tunery.report.records import Evaluation

WRONG, RIGHT = 8, 4
Judged = tuple[dict[str, Any], float | None]
"""A row and its own number, None if it has none."""


def samples(found: Evaluation) -> Iterator[Block | None]:
    """The worst rows, then some of the best."""
    if not found.predictions:
        return
    number, judged = _judged(found)
    if number is None:
        yield Text(f"The first rows of {found.name}; what they are judged by is not a matter of single rows.")
        yield Samples([_sample(row, None) for row in found.predictions[: WRONG + RIGHT]])
        return
    known: list[Judged] = [(row, score) for row, score in judged if score is not None]
    if intervals.higher_is_better(number) and {score for _, score in known} <= {0.0, 1.0}:
        yield from _right_and_wrong(found, known)
    else:
        yield from _ranked(known, number)


def _right_and_wrong(found: Evaluation, known: list[Judged]) -> Iterator[Block | None]:
    wrong = [row for row, score in known if not score]
    right = [row for row, score in known if score]
    sure = any(_probability(row) is not None for row in wrong)
    wrong.sort(key=lambda row: -(_probability(row) or 0.0))
    chosen = "those it was surest of first" if sure else "the first ones"
    yield Text(f"{len(wrong):,} of {len(known):,} {found.name} rows are wrong; here {chosen}, then some right ones.")
    yield Samples([_sample(row, False) for row in wrong[:WRONG]])
    yield Samples([_sample(row, True) for row in right[:RIGHT]])


def _ranked(known: list[Judged], number: str) -> Iterator[Block | None]:
    sign = 1 if intervals.higher_is_better(number) else -1
    known = sorted(known, key=lambda item: sign * (item[1] or 0.0))
    half = len(known) // 2
    worst, best = known[: min(WRONG, len(known) - half)], known[max(len(known) - RIGHT, len(known) - half) :]
    yield Text(f"Rows by their {number}: the {len(worst)} worst, then the {len(best)} best of {len(known):,}.")
    yield Samples([_sample(row, None, f"{number} {words.score(score or 0.0)}") for row, score in worst])
    yield Samples([_sample(row, None, f"{number} {words.score(score or 0.0)}") for row, score in reversed(best)])


def _judged(found: Evaluation) -> tuple[str | None, list[Judged]]:
    """The number the run is judged by, or another one that rows have, with each row's own; None: rows have none."""
    if found.confusion:
        return "accuracy", [(row, float(row["prediction"] == row.get("reference"))) for row in found.predictions]
    order = [intervals.headline(list(found.metrics)), *found.metrics, "accuracy", "mae", "f1_samples"]
    for number in dict.fromkeys(name for name in order if name):
        scores = intervals.row_scores(found, number)
        if scores and any(score is not None for score in scores):
            return number, list(zip(found.predictions, scores, strict=True))
    return None, []


def _probability(row: dict[str, Any]) -> float | None:
    shares, answer = row.get("probabilities"), row.get("prediction")
    return shares.get(answer) if isinstance(shares, dict) and isinstance(answer, str) else None


def _sample(row: dict[str, Any], right: bool | None, score: str = "") -> Sample:
    notes = [score] if score else []
    if (probability := _probability(row)) is not None:
        notes.append(f"probability {words.score(probability)}")
    given = row.get("prediction")
    # what is expected of an answer are several accepted ones; of a list, the list
    expected = _shown(row.get("reference"), ", " if isinstance(given, list) else " | ")
    if row.get("contains"):
        expected = f"{expected}\nmust contain: {_shown(row['contains'])}"
    where = str(row.get("where", "")).replace("\\", "/").rpartition("/")[2]  # the folder is in "Environment"
    return Sample(where, str(row.get("input", "")), expected, _shown(given), right, ", ".join(notes))


def _shown(value: Any, between: str = ", ") -> str:
    """An answer as text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return between.join(_shown(part) for part in value) if value else "(none)"
    if isinstance(value, float):
        return words.number(value)
    return json.dumps(value, ensure_ascii=False)
