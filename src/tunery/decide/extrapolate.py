"""From the scores of a few sizes of training data to those of sizes that nobody has trained on.

The curve is a power law with an asymptote::

    score(n) = a - b n^-c,        b ≥ 0, c between 0.05 and 1

the form that most measured learning curves have (Hestness et al. 2017; Viering & Loog 2023 compare many); of numbers
where lower is better, a + b n^-c. With each further doubling the gain shrinks by the factor 2^-c.

The interval is that of the mean of as many trainings as there were a size. It comes from fits to redrawn scores: around
the fitted curve, with the noise that trainings of one size have; the noise itself is redrawn, as it is known from few
trainings; and where the curve misses the scores by more than the noise, the noise is taken as large as the misses.
Noise shrinks as data grows, by a power of n that is estimated, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPONENTS = (0.05, 1.0)
"""c is looked for between these: slower than the first is a logarithm; 1/n is the fastest rate that learning theory
knows for noisy labels and fixed models."""
_STEPS = 40
"""Values of c that are tried; a and b follow from c by least squares."""
_NOISE_SLOPES = (-1.5, 0.0)
"""Powers of n by which the variance of trainings may shrink."""
LEAST_SIZES = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted learning curve: ``score(n) = a - b n^-c`` (``sign`` -1: plus), with fits to redrawn scores."""

    a: float
    b: float
    c: float
    sign: int
    noise: float
    """Standard deviation of a training on 1 row, as the fit has it; of n rows: ``noise * n^(noise_slope / 2)``."""
    noise_slope: float
    trainings: int
    redrawn: NDArray[Any]
    """a, b, c, of each redrawn fit [draws, 3]."""
    scatter: NDArray[Any]
    """Factor of the noise, and a standard normal number, of each draw [draws, 2]."""

    def __call__(self, rows: float) -> float:
        return float(self.a - self.sign * self.b * rows**-self.c)

    def deviation(self, rows: float) -> float:
        """Standard deviation of the score of a single training."""
        return float(self.noise * rows ** (self.noise_slope / 2))

    def gain(self, rows: float, more: float, confidence: float = 0.95) -> tuple[float, float]:
        """By how much the expected score changes from ``rows`` to ``more`` rows."""
        import numpy as np

        _, b, c = self.redrawn.T
        low, high = np.quantile(
            self.sign * b * (rows**-c - more**-c), [(1 - confidence) / 2, (1 + confidence) / 2]
        )
        return float(low), float(high)

    def interval(self, rows: float, confidence: float = 0.95) -> tuple[float, float]:
        """Where the mean score of ``trainings`` trainings on so many rows lies."""
        import numpy as np

        a, b, c = self.redrawn.T
        deviation = self.deviation(rows) / math.sqrt(self.trainings)
        drawn = a - self.sign * b * rows**-c + self.scatter[:, 0] * self.scatter[:, 1] * deviation
        low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def fit(
    scores: Mapping[int, Sequence[float]],
    *,
    higher_is_better: bool = True,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    draws: int = 1000,
    seed: int = 0,
) -> Curve:
    """Fit the curve to the scores of each size (rows → the scores of its trainings).

    Args:
        bounds: between which the score lies, so that the asymptote does, too.

    Raises ValueError for fewer than ``LEAST_SIZES`` sizes, or fewer than two trainings of every size.
    """
    import numpy as np

    sizes = sorted(scores)
    if len(sizes) < LEAST_SIZES or max(len(values) for values in scores.values()) < 2:
        raise ValueError(f"a curve needs {LEAST_SIZES} sizes, and two trainings of some")
    sign = 1 if higher_is_better else -1
    n = np.array(sizes, dtype=float)
    counts = np.array([len(scores[size]) for size in sizes])
    means = np.array([np.mean(scores[size]) for size in sizes])
    noise, slope, freedom = _noise(n, [scores[size] for size in sizes])
    deviations = noise * n ** (slope / 2) / np.sqrt(counts)
    a, b, c = _power_law(n, means[None], deviations, sign, bounds)[0]
    fitted = a - sign * b * n**-c
    misses = float((((means - fitted) / deviations) ** 2).sum()) / max(len(n) - 3, 1)
    wider = math.sqrt(max(misses, 1.0))
    generator = np.random.default_rng(seed)
    factors = np.sqrt(freedom / generator.chisquare(freedom, draws))
    redrawn = fitted + generator.normal(size=(draws, len(n))) * deviations * wider * factors[:, None]
    return Curve(
        float(a), float(b), float(c), sign, noise, slope, round(float(np.median(counts))),
        _power_law(n, redrawn, deviations, sign, bounds),
        np.stack([factors, generator.normal(size=draws)], axis=1),
    )  # fmt: skip


def _noise(n: NDArray[Any], scores: Sequence[Sequence[float]]) -> tuple[float, float, int]:
    """Standard deviation of a training, as ``noise * n^(slope / 2)``, and its degrees of freedom."""
    import numpy as np

    several = [i for i, values in enumerate(scores) if len(values) > 1]
    variances = np.array([np.var(scores[i], ddof=1) for i in several])
    freedoms = np.array([len(scores[i]) - 1 for i in several])
    pooled = float((variances * freedoms).sum() / freedoms.sum())
    # scores that happen to be equal are not without noise
    least = max(pooled, 1e-12) / 10
    slope = 0.0
    if len(several) > 1:
        slope = float(np.polyfit(np.log(n[several]), np.log(np.maximum(variances, least)), 1, w=np.sqrt(freedoms))[0])
        slope = min(max(slope, _NOISE_SLOPES[0]), _NOISE_SLOPES[1])
    scaled = variances / n[several] ** slope
    return math.sqrt(max(float((scaled * freedoms).sum() / freedoms.sum()), 1e-12)), slope, int(freedoms.sum())


def _power_law(
    n: NDArray[Any], scores: NDArray[Any], deviations: NDArray[Any], sign: int, bounds: tuple[float, float]
) -> NDArray[Any]:
    """a, b, c of the least squares for each row of ``scores`` [fits, sizes] → [fits, 3].

    For each c of a grid, score is linear in n^-c; the best c wins. Where b would be below 0 (more data, worse score)
    the line is flat, and an asymptote beyond the bounds is held at the bound.
    """
    import numpy as np

    weights = 1 / deviations**2
    best = np.full(len(scores), np.inf)
    found = np.zeros((len(scores), 3))
    mean = (scores * weights).sum(axis=1) / weights.sum()
    top = bounds[1] if sign > 0 else bounds[0]
    for c in np.geomspace(*EXPONENTS, _STEPS):
        x = n**-c
        centre = (x * weights).sum() / weights.sum()
        slope = (scores - mean[:, None]) @ ((x - centre) * weights) / ((x - centre) ** 2 * weights).sum()
        b = np.maximum(-sign * slope, 0.0)
        a = mean + sign * b * centre
        beyond = sign * a > sign * top
        if beyond.any():
            held = sign * ((top - scores) * x * weights).sum(axis=1) / (x**2 * weights).sum()
            a, b = np.where(beyond, top, a), np.where(beyond, held, b)
        errors = ((scores - (a[:, None] - sign * b[:, None] * x)) ** 2 * weights).sum(axis=1)
        better = errors < best
        best[better] = errors[better]
        found[better] = np.stack([a, b, np.full(len(scores), c)], axis=1)[better]
    return found
