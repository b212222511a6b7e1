"""Token overlap of short answers."""

from __future__ import annotations

from collections import Counter

from tunery.metrics._text import answer_tokens, answered, is_chinese
from tunery.protocols import Metric, Number, Scored


class AnswerF1(Metric):
    """Mean over rows of the F1 between the tokens of an answer and of the best accepted answer.

    F1 = 2·common / (tokens of the prediction + tokens of the reference), a token counting as often as it occurs in
    both; two empty answers are equal. English: SQuAD's normalised words (Rajpurkar et al. 2016). Chinese: single
    characters, as CMRC 2018 and MLQA cut them (CMRC's script counts the longest common run instead of the common
    characters; the order of characters plays no part here, as in SQuAD and MLQA).

    Example: "big apple" has 2 of the 3 words "new big apple": F1 2·2 / (2 + 3).

    >>> AnswerF1().compute(Scored(predictions=["the big apple"], references=[("New York", "new big apple")]))
    {'f1': 0.8}
    """

    summary = "overlap of an answer with the best accepted answer"
    kind = "text"
    numbers = (Number("f1", "token overlap with the best accepted answer, 0 to 1"),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        return {"f1": sum(max(_f1(p, answer) for answer in answers) for p, answers in rows) / len(rows)}


def _f1(prediction: str, answer: str) -> float:
    chinese = is_chinese(prediction) or is_chinese(answer)
    p, r = Counter(answer_tokens(prediction, chinese)), Counter(answer_tokens(answer, chinese))
    if not p and not r:
        return 1.0
    return 2 * (p & r).total() / (p.total() + r.total())
