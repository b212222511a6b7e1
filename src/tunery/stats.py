"""How sure a number is: intervals, and tests of whether two models differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 1_000_000
"""Values drawn at once; bounds the memory of a bootstrap to some 20 MB however long the data."""
LEAST_DIFFERING = 6
"""Rows that must differ before anything can be said: five that speak for one side come by chance once in 16 times."""
_SIGNS, _DRAWS = 200, 10_000
"""Up to so many differing rows signs are drawn, and how often; of more, the bootstrap alone is good enough."""
_EXACT = 1000
"""Up to here McNemar's test sums the binomial; beyond, the approximation is good to three digits."""


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean of ``values`` by the BCa bootstrap (bias-corrected and accelerated).

    The interval runs between two quantiles of the means of resamples; with z0 = Φ⁻¹(share of them below the mean),
    a = Σd³ / (6 (Σd²)^1.5) over the deviations d from the mean, and z = Φ⁻¹((1 ± confidence) / 2), the quantiles
    are Φ(z0 + (z0 + z) / (1 - a (z0 + z))). Source: Efron 1987; as ``scipy.stats.bootstrap``.

    Equal values give an interval of no width, however few they are: for shares of right answers use ``wilson``.
    Raises ValueError for no values.

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> 1.0 < low < 2.2 and 3.8 < high < 5.0
    True
    """
    import numpy as np

    data = np.asarray(values, dtype=float)
    if not data.size:
        raise ValueError("an interval needs at least one value")
    if data.max() == data.min():
        return float(data[0]), float(data[0])
    return bca(_resampled_means(data, resamples, seed), data.mean(), data - data.mean(), confidence)


def bca(
    resampled: NDArray[Any], value: float, deviations: NDArray[Any], confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of any statistic by the BCa bootstrap; the formulas are in ``bootstrap_interval``.

    Args:
        resampled: the statistic of each resample.
        value: the statistic of the data.
        deviations: for the acceleration, what each row (or block of rows) does to the statistic, up to a factor: the
            mean of the jackknife values less the value without that row; for a mean, the deviations from it.
    """
    import numpy as np

    normal = NormalDist()
    # Ties count half, and a value outside all resamples must not give an infinite z0.
    below = (np.mean(resampled < value) + np.mean(resampled <= value)) / 2
    z0 = normal.inv_cdf(float(np.clip(below, 0.5 / len(resampled), 1 - 0.5 / len(resampled))))
    squares = float((deviations**2).sum())
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares else 0.0

    def quantile(share: float) -> float:
        z = z0 + normal.inv_cdf(share)
        return float(np.quantile(resampled, normal.cdf(z0 + z / (1 - acceleration * z))))

    return quantile((1 - confidence) / 2), quantile((1 + confidence) / 2)


def folds_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean score of a k-fold cross-validation.

    mean ± t(k - 1) · s · √(1/k + 1/(k - 1)), s being the standard deviation over the folds. The second term, test rows
    over training rows, is there because the training parts overlap: scores of folds are not independent, and s/√k is
    too small. Source: Nadeau & Bengio 2003. Raises ValueError for fewer than two folds.

    >>> low, high = folds_interval([0.8, 0.9])
    >>> low < 0 and high > 1
    True
    """
    from statistics import mean, stdev

    from scipy.stats import t

    count = len(values)
    if count < 2:
        raise ValueError("an interval needs at least two folds")
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * stdev(values) * math.sqrt(1 / count + 1 / (count - 1))
    return mean(values) - half, mean(values) + half


def _resampled_means(data: NDArray[Any], resamples: int, seed: int) -> NDArray[Any]:
    import numpy as np

    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(data))
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate(
        [data[generator.integers(0, len(data), size=(size, len(data)))].mean(axis=1) for size in sizes]
    )


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share, good for few trials and for shares near 0 and 1.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n. Source: Wilson 1927. No trials give
    (0, 1). Raises ValueError if ``successes`` is not between 0 and ``n``.

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials")
    if n == 0:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    # Rounding would leave 1e-17 where the formula gives exactly 0 or 1.
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def mcnemar(b: int, c: int) -> float:
    """Two-sided p-value that two models are right equally often on the same rows.

    ``b`` rows only the first got right, ``c`` only the second; rows both or neither got right say nothing. Exact:
    min(1, 2 P(X ≤ min(b, c))) with X ~ Binomial(b + c, ½). Above 1000 such rows: the χ² with one degree of freedom
    of (|b - c| - 1)² / (b + c). Source: McNemar 1947, continuity correction of Edwards 1948.

    >>> mcnemar(1, 5)  # 2 (1 + 6) / 2⁶
    0.21875
    """
    n = b + c
    if min(b, c) < 0:
        raise ValueError(f"counts of rows: {b}, {c}")
    if n <= _EXACT:
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / (1 << n))
    return math.erfc(math.sqrt(max(0, abs(b - c) - 1) ** 2 / n / 2))


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``a[i] - b[i]`` with its interval: a tie as long as the interval holds 0.

    ``a`` and ``b`` are the scores of two models on the same rows. Resampling rows keeps the pairs together, so
    that rows hard for both do not blur the difference (Koehn 2004). The interval is ``bootstrap_interval``'s, which is
    too sure of itself where few rows differ; so it is made to hold 0 where signs given to the differences at random
    would make as large a mean too often (McNemar's test for right and wrong; Fisher's randomization test otherwise).
    Raises ValueError if the lengths differ.

    >>> paired_bootstrap([1.0, 0.5, 1.0], [0.5, 0.0, 0.5])
    (0.5, 0.0, 0.5)
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    low, high = bootstrap_interval(differences, confidence, resamples, seed)
    if by_signs(differences, seed) >= 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return math.fsum(differences) / len(differences), low, high


def by_signs(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value that each difference might as well have the other sign: how often random signs make a mean as
    far from 0. Source: Fisher 1935; for differences of one size it is McNemar's exact test. 0 for more than 200
    differences of several sizes, where the bootstrap needs no help.

    >>> by_signs([0.5, 0.5, 0.5, 0.0])  # all signs alike: 2 of 2³
    0.25
    """
    import numpy as np

    values = np.asarray([value for value in differences if value], dtype=float)
    if not len(values):
        return 1.0
    if np.ptp(np.abs(values)) <= 1e-9 * np.abs(values).max():
        return mcnemar(int((values > 0).sum()), int((values < 0).sum()))
    if len(values) > _SIGNS:
        return 0.0
    signs = np.random.default_rng(seed).integers(0, 2, size=(_DRAWS, len(values))) * 2.0 - 1.0
    return float((np.abs(signs @ values) >= abs(values.sum()) - 1e-9).mean())
