"""Errors and correlations of predicted numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunery.protocols import Metric, Number, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Regression(Metric):
    """Errors and correlations between predicted numbers p and references r.

    MAE = mean |p - r|; RMSE = √mean (p - r)²; R² = 1 - Σ(p - r)² / Σ(r - mean r)²; Pearson = cov(p, r) / (σp σr);
    Spearman = Pearson of the ranks, ties sharing their mean rank. Where a side is constant (a single row, too),
    R² and the correlations are undefined: they are reported as 0, "explains nothing", instead of nan.

    >>> numbers = Regression().compute(Scored(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0]))
    >>> {name: round(value, 3) for name, value in numbers.items()}
    {'mae': 0.333, 'rmse': 0.577, 'r2': 0.5, 'pearson': 0.982, 'spearman': 1.0}
    """

    summary = "errors and correlations of numbers"
    kind = "numbers"
    numbers = (
        Number("mae", "mean absolute error", higher_is_better=False, mean_of_rows=True),
        Number("rmse", "root of the mean squared error", higher_is_better=False),
        Number("r2", "share of the references' variance that is explained; 1 is perfect, 0 as good as their mean"),
        Number("pearson", "linear correlation, -1 to 1"),
        Number("spearman", "correlation of the ranks, -1 to 1"),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing for no rows."""
        import numpy as np

        if not scored.references:
            return {}
        p = np.asarray(scored.predictions, dtype=float)
        r = np.asarray(scored.references, dtype=float)
        squares = float(np.sum((p - r) ** 2))
        spread = 0.0 if _constant(r) else float(np.sum((r - r.mean()) ** 2))
        return {
            "mae": float(np.mean(np.abs(p - r))),
            "rmse": float(np.sqrt(squares / len(r))),
            "r2": 1.0 - squares / spread if spread else 0.0,
            "pearson": _pearson(p, r),
            "spearman": _pearson(_ranks(p), _ranks(r)),
        }


def _constant(values: NDArray[Any]) -> bool:
    # Not "variance == 0": rounding gives three times 0.1 a variance.
    return bool(values.max() == values.min())


def _pearson(p: NDArray[Any], r: NDArray[Any]) -> float:
    import numpy as np

    if _constant(p) or _constant(r):
        return 0.0
    p, r = p - p.mean(), r - r.mean()
    # Only directions matter; scaling first keeps the squares of tiny and huge numbers from under- and overflowing.
    p, r = p / np.abs(p).max(), r / np.abs(r).max()
    return float(np.clip(np.dot(p, r) / (np.linalg.norm(p) * np.linalg.norm(r)), -1.0, 1.0))


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    """Ranks from 1; equal values share the mean of their ranks."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[Any] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
