"""Token overlap of short answers."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

from tunery.metrics._text import answer_tokens, answered, is_chinese
from tunery.protocols import Metric, Number, Scored


class AnswerF1(Metric):
    """Mean over rows of the F1 between the tokens of an answer and of the best accepted answer.

    F1 = 2·common / (tokens of the prediction + tokens of the reference); two empty answers are equal. English: SQuAD's
    normalised words, a word counting as often as it occurs in both (Rajpurkar et al. 2016). Chinese (either of the two
    texts): single characters, of which the longest common run counts (CMRC 2018, Cui et al. 2019).

    Example: "big apple" has 2 of the 3 words "new big apple": F1 2·2 / (2 + 3).

    >>> AnswerF1().compute(Scored(predictions=["the big apple"], references=[("New York", "new big apple")]))
    {'f1': 0.8}
    """

    summary = "overlap of an answer with the best accepted answer"
    kind = "text"
    numbers = (Number("f1", "token overlap with the best accepted answer, 0 to 1", mean_of_rows=True),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        return {"f1": sum(max(_f1(p, answer) for answer in answers) for p, answers in rows) / len(rows)}


def _f1(prediction: str, answer: str) -> float:
    chinese = is_chinese(prediction) or is_chinese(answer)
    p, r = answer_tokens(prediction, chinese), answer_tokens(answer, chinese)
    if not p and not r:
        return 1.0
    common = _longest_run(p, r) if chinese else (Counter(p) & Counter(r)).total()
    return 2 * common / (len(p) + len(r))


def _longest_run(one: list[str], other: list[str]) -> int:
    return SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
