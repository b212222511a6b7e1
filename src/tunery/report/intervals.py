"""How sure the numbers of an evaluation are: 95 % intervals from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tunery import registry, stats
from tunery.protocols import Metric, Number, Scored
from tunery.report.records import LOSSES, Evaluation

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_ROWS = 5_000
"""Rows that are scored one by one; the first ones of more."""
MOST_CELLS = 40_000
"""Of a confusion matrix that is resampled."""
CONFIDENCE = 0.95
RESAMPLES = 2000
Interval = tuple[float, float]


@cache
def metric_of(number: str) -> tuple[type[Metric], Number] | None:
    """The metric that reports a number, found by name; None if none does."""
    for name in registry.names("metric"):
        metric: type[Metric] = registry.get("metric", name)
        for found in metric.numbers:
            if found.name == number:
                return metric, found
    return None


def higher_is_better(number: str) -> bool:
    found = metric_of(number)
    return found is None or found[1].higher_is_better


def headline(metrics: Sequence[str]) -> str | None:
    """The number a run is judged by: the first that is no loss, and not whether long answers match to the letter.

    >>> headline(["loss", "exact_match", "rougeL"]), headline(["loss", "perplexity"]), headline([])
    ('rougeL', 'loss', None)
    """
    order = sorted(metrics, key=lambda name: 2 * (name in LOSSES) + (name == "exact_match"))
    return order[0] if order else None


def row_scores(evaluation: Evaluation, number: str) -> list[float | None] | None:
    """The number of each row alone (None: it has none); None if the number is not the mean of those.

    That is not taken on trust: the mean over all rows must be what the evaluation has recorded.
    """
    metric = metric_of(number)
    rows = evaluation.predictions
    if metric is None or number in LOSSES or number not in evaluation.metrics or not 0 < len(rows) <= MOST_ROWS:
        return None
    if not metric[1].mean_of_rows:
        return None
    labels = tuple((evaluation.confusion or {}).get("labels", ()))
    compute = metric[0]().compute
    scores = [compute(scored(row, metric[0].kind, labels)).get(number) for row in rows]
    known = [score for score in scores if score is not None]
    if not known or abs(sum(known) / len(known) - evaluation.metrics[number]) > 1e-6:
        return None
    return scores


def scored(row: dict[str, Any], kind: str, labels: tuple[str, ...]) -> Scored:
    """A record of predictions.jsonl as metrics read it."""
    reference = _tuples(row.get("reference", () if kind == "multilabel" else None))
    return Scored([_tuples(row["prediction"])], [reference], [tuple(row.get("contains", ()))], labels)


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def interval(scores: Sequence[float]) -> Interval:
    """Of a mean over rows: Wilson's where rows are right or wrong, else the bootstrap's.

    >>> interval([1.0] * 8 + [0.0] * 2) == stats.wilson(8, 10)
    True
    """
    if set(scores) <= {0.0, 1.0}:
        return stats.wilson(round(sum(scores)), len(scores), CONFIDENCE)
    return stats.bootstrap_interval(scores, CONFIDENCE)


def of(evaluation: Evaluation) -> dict[str, Interval]:
    """Intervals of the numbers whose rows are known."""
    if evaluation.intervals is not None:
        return evaluation.intervals
    found = _of_confusion(evaluation)
    for number in evaluation.metrics.keys() - found.keys():
        scores = row_scores(evaluation, number)
        if scores is not None:
            found[number] = interval([score for score in scores if score is not None])
    evaluation.intervals = found
    return found


def _of_confusion(evaluation: Evaluation) -> dict[str, Interval]:
    """Of the accuracy, and of means over classes by resampling the rows of the matrix (percentile bootstrap)."""
    if not evaluation.confusion or not evaluation.confusion.get("counts"):
        return {}
    import numpy as np

    counts = np.asarray(evaluation.confusion["counts"], dtype=float)
    # classes that are neither expected nor given do not count, as in the metric
    seen = (counts.sum(0) + counts.sum(1)) > 0
    counts = counts[seen][:, seen]
    total, right = int(counts.sum()), int(np.trace(counts))
    if not total:
        return {}
    known = abs(right / total - evaluation.metrics.get("accuracy", -1.0)) < 1e-6
    found = {"accuracy": stats.wilson(right, total, CONFIDENCE)} if known else {}
    if counts.size > MOST_CELLS:
        return found
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(total, (counts / total).ravel(), size=_affordable(counts.size))
    drawn = drawn.reshape(-1, *counts.shape).astype(float)
    here, samples = _averages(counts[None]), _averages(drawn)
    low, high = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    return found | {
        name: (float(np.quantile(values, low)), float(np.quantile(values, high)))
        for name, values in samples.items()
        if name in evaluation.metrics and abs(float(here[name][0]) - evaluation.metrics[name]) < 1e-6
    }


def _affordable(cells: int) -> int:
    """Resamples that take no more than 50 MB."""
    return int(min(RESAMPLES, max(200, 6_000_000 // cells)))


def _averages(counts: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Precision, recall and F1 over the classes of each matrix in (matrices, true, given)."""
    import numpy as np

    right = np.diagonal(counts, axis1=1, axis2=2)
    expected, given = counts.sum(2), counts.sum(1)

    def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
        divided: NDArray[Any] = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        return divided

    present = (expected + given) > 0
    values = {"precision": share(right, given), "recall": share(right, expected)}
    values["f1"] = share(2 * right, expected + given)
    found = {}
    for name, by_class in values.items():
        found[f"{name}_macro"] = (by_class * present).sum(1) / present.sum(1)
        found[f"{name}_weighted"] = (by_class * expected).sum(1) / expected.sum(1)
    return found
