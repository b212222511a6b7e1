"""Is the second better than the first? A difference of two sides, measured on the same rows, with its interval.

A side is one or several trainings of one method (several seeds). What the interval covers decides what may be said:

- **rows**: with other test rows the difference would be another one. One training a side is enough to tell.
- **seeds**: with other seeds it would be another one, too. That takes at least two trainings of one of the methods.

Rows are resampled (paired bootstrap, BCa); where few rows differ, signs must agree too (``stats.paired_bootstrap``).
Seeds are not resampled: of two or three runs, resampling sees a variance too small
by (k - 1)/k and a handful of different values, so that its interval misses far too often (docs/compare.md has numbers).
Their part is Student's t with the variance between runs of one method, pooled over the methods; both parts are joined
by the distances of their ends (MOVER: Zou & Donner 2008)::

    low = d - √((d - low_rows)² + t(ν)² s² (1/k₁ + 1/k₂))        high likewise

with d the difference, s² the pooled variance between seeds, ν its degrees of freedom, k the runs of a side. What rows
and seeds do together is in both parts, so the interval is rather too wide than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any, Literal

from tunery import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

POWER = 0.8
"""Chance to see a difference that is there, for which the number of rows is told."""
BLOCKS = 100
"""Most blocks of rows that the jackknife leaves out in turn."""
_VALUES = 2_000_000
"""Weights at a time; bounds the memory of a bootstrap to some 20 MB."""

Measure = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""One run's number for each of several weightings of the rows: [weightings, rows] → [weightings]."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``second - first``, in the metric's own units."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    rows: int
    runs: tuple[int, int]
    """Trainings of either side."""
    covers: Literal["rows", "rows and seeds"]
    tie: bool
    """The interval includes 0."""
    row_deviation: float
    """Standard deviation of the paired differences of a single row."""
    seed_deviation: float | None
    """Standard deviation between runs of one method; None if every method has one run."""
    more_rows: int | None
    """So many further rows would decide a tie, if the difference is what it seems (see ``rows_to_decide``). None: it is
    no tie, or no number of rows would."""


def pair(
    first: Sequence[Any],
    second: Sequence[Any],
    *,
    alike: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Of a number that is a mean over rows.

    Args:
        first: the score of each row; or several lists of them, one a training (seeds of one method).
        second: the same for the other side, in the same order of rows.
        alike: all runs are trainings of one method that differ in the seed only, on both sides.

    Raises ValueError if the numbers of rows differ, or there are none.

    >>> pair([0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]).difference
    0.3333333333333333
    """
    import numpy as np

    sides = [np.atleast_2d(np.asarray(side, dtype=float)) for side in (first, second)]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"{sides[0].shape[1]} rows of the first, {sides[1].shape[1]} of the second")
    rows = [side.mean(axis=0) for side in sides]
    _, low, high = stats.paired_bootstrap(rows[1], rows[0], confidence, resamples, seed)
    deviation = float(np.std(rows[1] - rows[0], ddof=1)) if len(rows[0]) > 1 else 0.0
    scores = [[float(score) for score in side.mean(axis=1)] for side in sides]
    differing = int(np.count_nonzero(rows[1] - rows[0]))
    return _joined(scores, (low, high), len(rows[0]), differing, deviation, alike, confidence)


def pair_of(
    first: Sequence[Measure],
    second: Sequence[Measure],
    rows: int,
    differing: int,
    *,
    alike: bool = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Of any number of all rows together (F1 of classes, BLEU): rows are resampled and it is computed again, BCa.

    Args:
        first: how a number is found, for each training of the side; ``second`` likewise.
        rows: how many there are.
        differing: on how many of them the sides differ; fewer than ``stats.LEAST_DIFFERING`` are a tie.
    """
    import numpy as np

    if not rows:
        raise ValueError("a comparison needs at least one row")

    def difference(weights: NDArray[Any]) -> NDArray[Any]:
        found = [np.mean([measure(weights) for measure in side], axis=0) for side in (first, second)]
        return np.asarray(found[1] - found[0])

    generator = np.random.default_rng(seed)
    block = max(1, _VALUES // rows)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    resampled = np.concatenate([difference(_drawn(generator, size, rows)) for size in sizes])
    whole = np.ones((1, rows))
    left_out = difference(_without_blocks(rows)) if rows > 1 else np.zeros(1)
    interval = stats.bca(resampled, float(difference(whole)[0]), left_out.mean() - left_out, confidence)
    if differing < stats.LEAST_DIFFERING:
        interval = min(interval[0], 0.0), max(interval[1], 0.0)
    scores = [[float(measure(whole)[0]) for measure in side] for side in (first, second)]
    deviation = float(resampled.std()) * math.sqrt(rows)
    return _joined(scores, interval, rows, differing, deviation, alike, confidence)


def rows_to_decide(
    difference: float, row_deviation: float, seed_variance: float = 0.0, confidence: float = 0.95
) -> int | None:
    """Test rows, all told, with which a true difference of that size would be seen with a chance of ``POWER``.

    n = s² / (d² / (z(1 - α/2) + z(power))² - v), by the normal approximation; s: standard deviation of the paired
    differences of single rows, v: variance of d from the seeds, which no number of rows makes smaller. None where the
    denominator is not above 0, or d is 0.

    >>> rows_to_decide(0.01, 0.3)
    7064
    >>> rows_to_decide(0.01, 0.3, seed_variance=0.01**2) is None
    True
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(POWER)
    left = (difference / z) ** 2 - seed_variance
    return math.ceil(row_deviation**2 / left) if left > 0 else None


def _drawn(generator: Any, size: int, rows: int) -> NDArray[Any]:
    """How often each row is in each of ``size`` resamples."""
    import numpy as np

    places = generator.integers(0, rows, size=(size, rows)) + rows * np.arange(size)[:, None]
    return np.bincount(places.ravel(), minlength=size * rows).reshape(size, rows).astype(float)


def _without_blocks(rows: int) -> NDArray[Any]:
    """All rows but a block, for each block."""
    import numpy as np

    weights = np.ones((min(rows, BLOCKS), rows))
    weights[np.arange(rows) % len(weights), np.arange(rows)] = 0
    return weights


def _joined(
    scores: Sequence[Sequence[float]],
    by_rows: tuple[float, float],
    rows: int,
    differing: int,
    row_deviation: float,
    alike: bool,
    confidence: float,
) -> Difference:
    """The interval over rows, and over seeds where a method has several."""
    first, second = (fmean(side) for side in scores)
    difference = second - first
    low, high = by_rows
    variance, freedom = _between([[*scores[0], *scores[1]]] if alike else scores)
    seeds = 0.0
    if freedom:
        from scipy.stats import t

        seeds = variance * (1 / len(scores[0]) + 1 / len(scores[1]))
        reach = float(t.ppf((1 + confidence) / 2, freedom)) ** 2 * seeds
        low = difference - math.sqrt(max(difference - low, 0.0) ** 2 + reach)
        high = difference + math.sqrt(max(high - difference, 0.0) ** 2 + reach)
    tie = low <= 0 <= high
    needed = rows_to_decide(difference, row_deviation, seeds, confidence) if tie else None
    if needed is not None and differing:
        needed = max(needed, math.ceil(stats.LEAST_DIFFERING * rows / differing))
    return Difference(
        first=first,
        second=second,
        difference=difference,
        low=low,
        high=high,
        rows=rows,
        runs=(len(scores[0]), len(scores[1])),
        covers="rows and seeds" if freedom else "rows",
        tie=tie,
        row_deviation=row_deviation,
        seed_deviation=math.sqrt(variance) if freedom else None,
        # a skew interval may hold 0 where the normal approximation has rows enough
        more_rows=None if needed is None else max(needed - rows, 1),
    )


def _between(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Variance between the runs of a group, pooled over the groups, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((score - fmean(group)) ** 2 for group in groups for score in group)
    return (squares / freedom if freedom else 0.0), freedom
