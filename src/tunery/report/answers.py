"""What a classifier's answers look like together: which classes it mixes up, and whether its probabilities hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunery.report import pictures, words
from tunery.report.page import Block, Matrix, Table, Text
from tunery.report.records import Evaluation

NAMED = 20
"""Most labels that a matrix names; more are a picture and a list."""
LISTED = 15
BINS = 10


def confusion(found: Evaluation) -> Iterator[Block | None]:
    """The matrix, what is mixed up most, and how each class fares."""
    if not found.confusion or not found.confusion.get("labels"):
        return
    labels, counts = [str(label) for label in found.confusion["labels"]], found.confusion["counts"]
    if len(labels) <= NAMED:
        yield Matrix(labels, counts)
    else:
        shares = [[count / (sum(row) or 1) for count in row] for row in counts]
        caption = f"True label (rows) and label given (columns), by number, on {found.rows:,} {found.name} rows"
        yield pictures.heat(shares, "number of the label given", "number of the true label", caption)
        yield _mixed_up(labels, counts)
    yield _classes(labels, counts)


def _mixed_up(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table | None:
    wrong: list[dict[str, Any]] = [
        {"rows": count, "true": labels[i], "given": labels[j]}
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    ]
    wrong.sort(key=lambda row: -row["rows"])
    return Table(["true", "given", "rows"], wrong[:LISTED], "Mixed up most often") if wrong else None


def _classes(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    """Recall and precision, the classes found worst first."""
    rows: list[dict[str, Any]] = []
    for i, label in enumerate(labels):
        expected, given, right = sum(counts[i]), sum(row[i] for row in counts), counts[i][i]
        share = {"recall": right / expected if expected else None, "precision": right / given if given else None}
        rows.append({"label": label, "rows": expected, **share})
    rows.sort(key=lambda row: (row["recall"] is None, row["recall"] or 0.0))
    caption = "Classes, those found worst first"
    if len(rows) > LISTED:
        caption += f" ({LISTED} of {len(rows)})"
    return Table(["label", "rows", "recall", "precision"], rows[:LISTED], caption)


# ----------------------------------------------------------------------------------------- calibration


def calibration(found: Evaluation) -> Iterator[Block | None]:
    """The reliability diagram and the expected calibration error, where predictions have probabilities."""
    given = certainties(found)
    if not given:
        return
    bins, error = reliability(given), expected_error(given)
    mean, right = (sum(pair[side] for pair in given) / len(given) for side in (0, 1))
    tendency = "too sure of itself" if mean > right else "less sure than it could be"
    if error < 0.02:
        tendency = "about as sure as it may be"
    yield Text(
        f"Expected calibration error {words.score(error)} ({BINS} bins of equal width; Guo et al. 2017). Mean "
        f"probability of the answers {words.score(mean)}, share that is right {words.score(right)}: the model is "
        f"{tendency}."
    )
    caption = f"Share of right answers by their probability, {len(given):,} {found.name} rows; larger dots: more rows"
    yield pictures.reliability(bins, caption)


def certainties(found: Evaluation) -> list[tuple[float, bool]]:
    """The probability of each answer and whether it is right; of rows with several labels, of each label."""
    pairs: list[tuple[float, bool]] = []
    for row in found.predictions:
        shares, answer, reference = row.get("probabilities"), row.get("prediction"), row.get("reference", [])
        if not isinstance(shares, dict) or any(share is None for share in shares.values()):
            continue
        if isinstance(answer, list):
            pairs += [(p, label in reference) for label, p in shares.items()]
        elif answer in shares:
            pairs.append((shares[answer], answer == reference))
    return pairs


def _binned(pairs: Sequence[tuple[float, bool]]) -> list[list[tuple[float, bool]]]:
    binned: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for pair in pairs:
        binned[min(int(pair[0] * BINS), BINS - 1)].append(pair)
    return [part for part in binned if part]


def reliability(pairs: Sequence[tuple[float, bool]]) -> list[tuple[float, float, int]]:
    """Mean probability, share right and rows of each bin that has any.

    >>> reliability([(0.9, True), (0.95, False), (0.55, True)])
    [(0.55, 1.0, 1), (0.925, 0.5, 2)]
    """
    return [
        (sum(p for p, _ in part) / len(part), sum(right for _, right in part) / len(part), len(part))
        for part in _binned(pairs)
    ]


def expected_error(pairs: Sequence[tuple[float, bool]]) -> float:
    """Mean distance of probability and share right over the bins, weighted by rows (Naeini et al. 2015).

    >>> round(expected_error([(0.9, True), (0.9, True), (0.6, False), (0.6, True)]), 3)
    0.1
    """
    bins = reliability(pairs)
    return sum(count * abs(p - right) for p, right, count in bins) / max(len(pairs), 1)
