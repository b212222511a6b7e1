"""How unevenly classes are spread over the training rows, and weights that make up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

UNEVEN = 3
"""Largest class : smallest class from where accuracy says little about the small ones."""


def ratio(counts: Mapping[str, int]) -> float:
    """Rows of the largest class for one of the smallest.

    >>> ratio({"a": 8, "b": 2})
    4.0
    """
    return max(counts.values()) / min(counts.values()) if counts else 1.0


def note(counts: Mapping[str, int], shown: str) -> str:
    """What to tell the user; ``shown``: the number that is looked at instead of accuracy."""
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    return (
        f"{counts[most]} of label {most!r}, {counts[least]} of {least!r}: {shown} is shown first and decides which "
        "weights are kept (train.class_weights=balanced lets rare labels weigh more)"
    )


def weights(counts: Mapping[str, int], classes: Sequence[str]) -> dict[str, float]:
    """N / (k · n_c), as scikit-learn's ``balanced``: all classes together weigh the same, and the mean weight of the
    n rows is 1. A class without rows weighs 1.

    >>> weights({"a": 6, "b": 2}, ["a", "b", "c"])
    {'a': 0.6666666666666666, 'b': 2.0, 'c': 1.0}
    """
    present = [name for name in classes if counts.get(name)]
    total = sum(counts[name] for name in present)
    return {name: total / (len(present) * counts[name]) if counts.get(name) else 1.0 for name in classes}


def positive_weights(counts: Mapping[str, int], classes: Sequence[str], rows: int) -> dict[str, float]:
    """Where rows have several labels: rows without a label for one with it. A label weighs at most as if one row had
    it, and one that all rows have as if one had not.

    >>> positive_weights({"a": 6, "b": 2}, ["a", "b"], 8)
    {'a': 0.3333333333333333, 'b': 3.0}
    """
    return {name: max(rows - counts.get(name, 0), 1) / max(counts.get(name, 0), 1) for name in classes}
