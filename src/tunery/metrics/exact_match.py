"""Exact match of short answers."""

from __future__ import annotations

from tunery.metrics._text import answered, is_chinese, normalise_answer
from tunery.protocols import Metric, Number, Scored


class ExactMatch(Metric):
    """Share of rows whose answer equals any accepted answer after normalisation.

    English: SQuAD's (Rajpurkar et al. 2016) - case, ASCII punctuation, articles and spacing do not matter.
    Chinese (either of the two texts): width, case, punctuation and spacing do not matter, a decimal point does.

    >>> ExactMatch().compute(Scored(predictions=["the Tower.", "上海 市。", "3.5"],
    ...                             references=[("Tower", "spire"), ("上海市",), ("约3.5",)]))
    {'exact_match': 0.6666666666666666}
    """

    summary = "share of answers equal to an accepted answer"
    kind = "text"
    numbers = (
        Number(
            "exact_match",
            "share of answers equal to an accepted one but for case, punctuation, articles",
            mean_of_rows=True,
        ),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        return {"exact_match": sum(any(_equal(p, answer) for answer in answers) for p, answers in rows) / len(rows)}


def _equal(prediction: str, answer: str) -> bool:
    chinese = is_chinese(prediction) or is_chinese(answer)
    return normalise_answer(prediction, chinese) == normalise_answer(answer, chinese)
