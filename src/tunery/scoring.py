"""From the names of numbers to their values: which metric reports a number, and computing those asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

from tunery import registry
from tunery.errors import ConfigError
from tunery.protocols import Metric, Number, Scored

_WHERE = "eval.metrics"


@cache
def _metrics_by_number() -> dict[str, type[Metric]]:
    found: dict[str, type[Metric]] = {}
    for name in registry.names("metric"):
        metric: type[Metric] = registry.get("metric", name)
        for number in metric.numbers:
            if number.name in found:
                raise TypeError(f"{number.name!r} is reported by both {found[number.name].name!r} and {name!r}")
            found[number.name] = metric
    return found


def number_names() -> dict[str, Number]:
    """All numbers that any metric reports, by name.

    >>> number_names()["perplexity"].higher_is_better
    False
    """
    metrics = dict.fromkeys(_metrics_by_number().values())
    return {number.name: number for metric in metrics for number in metric.numbers}


def metric_of(number_name: str) -> type[Metric]:
    """The metric that reports a number. Raises ConfigError with the nearest name if there is none.

    >>> metric_of("rougeL").name
    'rouge'
    """
    by_number = _metrics_by_number()
    if number_name not in by_number:
        raise ConfigError(f"unknown metric {number_name!r}", registry.near(number_name, sorted(by_number)), _WHERE)
    return by_number[number_name]


def score(scored: Scored, names: Sequence[str], kinds: Collection[str]) -> dict[str, float]:
    """The asked numbers, in the order asked for. Each metric is computed once.

    Args:
        scored: predictions, references and losses.
        names: names of numbers. Those that these rows cannot give (``contains`` without key facts, ``loss``
            without targets) are absent from the result.
        kinds: the kinds of metric (``Metric.kind``) that can read ``scored``, such as ``("classes", "loss")``.

    Raises ConfigError for an unknown number, and for one that does not fit these predictions.

    >>> score(Scored(predictions=["a"], references=["a"]), ["accuracy", "loss"], ("classes", "loss"))
    {'accuracy': 1.0}
    """
    check(names, kinds)
    computed: dict[type[Metric], dict[str, float]] = {}
    for name in names:
        metric = metric_of(name)
        if metric not in computed:
            computed[metric] = metric().compute(scored)
    return {name: computed[metric_of(name)][name] for name in names if name in computed[metric_of(name)]}


def check(names: Sequence[str], kinds: Collection[str]) -> None:
    """Raises what ``score`` would, without predictions: before training, not after it.

    >>> check(["acuracy"], ["classes"])
    Traceback (most recent call last):
    tunery.errors.ConfigError: eval.metrics: unknown metric 'acuracy' → did you mean 'accuracy'?
    """
    for name in names:
        if metric_of(name).kind not in kinds:
            fitting = [number for number, metric in _metrics_by_number().items() if metric.kind in kinds]
            problem = f"{name!r} does not fit this task's predictions"
            raise ConfigError(problem, f"fitting: {', '.join(fitting)}", _WHERE)
