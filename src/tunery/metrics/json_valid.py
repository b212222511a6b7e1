"""Whether answers are JSON objects."""

from __future__ import annotations

from tunery.metrics._json import parsed
from tunery.metrics._text import answered
from tunery.protocols import Metric, Number, Scored


class JsonValid(Metric):
    """Share of answers that are one JSON object and nothing else, so that a program can read them.

    Whether its fields are right is another question: ``field_f1``.

    >>> JsonValid().compute(Scored(predictions=['{"id": 7}', "The id is 7."], references=['{"id": 7}'] * 2))
    {'json_valid': 0.5}
    """

    summary = "share of answers that are a JSON object"
    kind = "text"
    numbers = (Number("json_valid", "share of answers that parse as one JSON object", mean_of_rows=True),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        return {"json_valid": sum(parsed(text) is not None for text, _ in rows) / len(rows)}
