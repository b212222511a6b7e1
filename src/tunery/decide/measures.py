"""A run's number on weighted rows, so that rows can be resampled; and what a single row is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunery import scoring
from tunery.decide.answers import LOSSES, Answers
from tunery.decide.pairs import Measure
from tunery.protocols import Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASS_NUMBERS = tuple(f"{part}_{how}" for part in ("precision", "recall", "f1") for how in ("macro", "weighted"))
ROW_NUMBERS = {"classes": "accuracy", "multilabel": "f1_samples", "numbers": "mae", "text": "rougeL"}
"""What a single row is judged by where the number to compare by is none of a single row."""


def value(answers: Answers, number: str, rows: Sequence[int] | None = None) -> float | None:
    """The number on those rows (None: all); None if they cannot give it."""
    chosen = range(len(answers)) if rows is None else rows
    scored = Scored(
        predictions=[answers.predictions[i] for i in chosen] if answers.predictions else [],
        references=[answers.references[i] for i in chosen] if answers.predictions else [],
        contains=[answers.contains[i] for i in chosen] if answers.predictions else [],
        labels=answers.labels,
        loss_sum=sum(answers.losses[i][0] for i in chosen) if answers.losses else 0.0,
        loss_count=sum(answers.losses[i][1] for i in chosen) if answers.losses else 0,
    )
    return scoring.metric_of(number)().compute(scored).get(number)


def of_rows(number: str) -> bool:
    """Whether the number is a mean over rows."""
    return scoring.number_names()[number].mean_of_rows


def row_number(kind: str, number: str) -> str | None:
    """The number that a single row is judged by; None for tags, whose rows are right or wrong."""
    if number in LOSSES:
        return "loss"
    return number if of_rows(number) else ROW_NUMBERS.get(kind)


def row_scores(answers: Answers, number: str | None) -> list[float | None]:
    """The number of each row; None for rows that say nothing (``contains`` without facts)."""
    if number is None:
        pairs = zip(answers.predictions, answers.references, strict=True)
        return [float(tuple(prediction) == tuple(reference)) for prediction, reference in pairs]
    return [value(answers, number, [i]) for i in range(len(answers))]


def measure(answers: Answers, number: str) -> Measure:
    """The number as a function of how often each row is there, for numbers that are no mean over rows."""
    if number in LOSSES:
        return _loss(answers, number)
    return _classes(answers, number) if number in CLASS_NUMBERS else _again(answers, number)


def _loss(answers: Answers, number: str) -> Measure:
    """Sum over count: rows with more targets weigh more, as in the metric."""
    import numpy as np

    totals, counts = np.array(answers.losses, dtype=float).T

    def of(weights: NDArray[Any]) -> NDArray[Any]:
        loss = weights @ totals / np.maximum(weights @ counts, 1)
        return np.exp(np.minimum(loss, 700.0)) if number == "perplexity" else np.asarray(loss)

    return of


def _classes(answers: Answers, number: str) -> Measure:
    """Precision, recall and F1 by counting; thousands of resamples a second, which scikit-learn's are not."""
    import numpy as np

    part, how = number.split("_")
    names = {name: i for i, name in enumerate(sorted({*map(str, answers.references), *map(str, answers.predictions)}))}
    true = np.eye(len(names))[[names[str(label)] for label in answers.references]]
    given = np.eye(len(names))[[names[str(label)] for label in answers.predictions]]
    right = true * given

    def of(weights: NDArray[Any]) -> NDArray[Any]:
        hits, references, predictions = weights @ right, weights @ true, weights @ given
        below = {"precision": predictions, "recall": references, "f1": (predictions + references) / 2}[part]
        scores = np.divide(hits, below, out=np.zeros_like(hits), where=below > 0)
        share = references if how == "weighted" else (references + predictions > 0).astype(float)
        return np.asarray((scores * share).sum(axis=1) / share.sum(axis=1))

    return of


def _again(answers: Answers, number: str) -> Measure:
    """The metric itself, on the rows as often as they are drawn."""
    import numpy as np

    def of(weights: NDArray[Any]) -> NDArray[Any]:
        rows = np.arange(len(answers))
        found = [value(answers, number, np.repeat(rows, counts.astype(int)).tolist()) for counts in weights]
        return np.array([0.0 if score is None else score for score in found])

    return of
