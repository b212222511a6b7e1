"""Key facts in generated texts."""

from __future__ import annotations

from tunery.metrics._text import has_key
from tunery.protocols import Metric, Number, Scored


class Contains(Metric):
    """Share of rows whose prediction contains all of the row's key facts.

    A fact must stand at word boundaries, regardless of case and full-width forms; 47 is not in 147 or 47.5.
    Chinese facts may stand anywhere. Rows without key facts are left out.

    >>> Contains().compute(Scored(predictions=["Paris, 1889.", "In 18890", "x"], references=["", "", ""],
    ...                           contains=[("paris", "1889"), ("1889",), ()]))
    {'contains': 0.5}
    """

    summary = "share of answers that contain all key facts"
    kind = "text"
    numbers = (
        Number("contains", "share of answers with all of their key facts, among rows that have any", mean_of_rows=True),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has key facts."""
        if not scored.contains:
            return {}
        rows = [(p, keys) for p, keys in zip(scored.predictions, scored.contains, strict=True) if keys]
        if not rows:
            return {}
        return {"contains": sum(all(has_key(p, key) for key in keys) for p, keys in rows) / len(rows)}
