"""Accuracy of classification."""

from __future__ import annotations

from tunery.protocols import Metric, Number, Scored


class Accuracy(Metric):
    """Rows whose predicted class is the reference, divided by all rows.

    >>> Accuracy().compute(Scored(predictions=["a", "b", "b"], references=["a", "b", "a"]))
    {'accuracy': 0.6666666666666666}
    """

    summary = "share of rows with the right class"
    kind = "classes"
    numbers = (Number("accuracy", "share of rows with the right class", mean_of_rows=True),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing for no rows."""
        if not scored.references:
            return {}
        right = sum(p == r for p, r in zip(scored.predictions, scored.references, strict=True))
        return {"accuracy": right / len(scored.references)}
