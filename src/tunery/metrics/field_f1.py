"""Right fields of extracted JSON objects."""

from __future__ import annotations

from collections import Counter

from tunery.metrics._json import fields, parsed
from tunery.metrics._text import answered
from tunery.protocols import Metric, Number, Scored


class FieldF1(Metric):
    """F1 over the (field, value) pairs of all answers, counted together ("micro").

    F1 = 2 · right / (pairs of the answers + pairs of the references). A value must be equal but for white space;
    3 equals 3.0 and not "3". Inner objects count by path (``to.city``), lists item by item. An answer that is no
    JSON object has no pairs, so all of its fields are missed. Of several references the nearest counts; rows whose
    references are no JSON objects are left out.

    Example: one of two fields is right, and both objects have two: 2·1 / (2 + 2).

    >>> FieldF1().compute(Scored(predictions=['{"id": 7, "to": "Rom"}'], references=['{"id": 7, "to": "Rome"}']))
    {'field_f1': 0.5}
    """

    summary = "right fields of extracted JSON objects"
    kind = "text"
    numbers = (Number("field_f1", "micro F1 over (field, value) pairs of JSON answers"),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a JSON object as its reference."""
        right = predicted = true = rows = 0
        for text, answers in answered(scored.predictions, scored.references):
            wanted = [fields(value) for value in map(parsed, answers) if value is not None]
            if not wanted:
                continue
            found = fields(parsed(text) or {})
            nearest = max(wanted, key=lambda one: _share(found & one, found, one))
            rows += 1
            right += (found & nearest).total()
            predicted += found.total()
            true += nearest.total()
        if not rows:
            return {}
        return {"field_f1": 2 * right / (predicted + true) if predicted + true else 1.0}


def _share(common: Counter[tuple[str, str]], found: Counter[tuple[str, str]], one: Counter[tuple[str, str]]) -> float:
    return common.total() / max(found.total() + one.total(), 1)
