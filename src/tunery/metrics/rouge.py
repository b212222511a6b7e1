"""ROUGE of generated texts."""

from __future__ import annotations

import re

from tunery.metrics._text import answered, has_cjk, tokens
from tunery.protocols import Metric, Number, Scored

_NAMES = ("rouge1", "rouge2", "rougeL")


class Rouge(Metric):
    """Overlap of words (``rouge1``), pairs of words (``rouge2``) and the longest common subsequence (``rougeL``).

    F = 2PR / (P + R) with P = overlap / tokens of the prediction, R = overlap / tokens of the reference; the best
    reference of a row counts, and rows are averaged. Range 0 to 1. Source: Lin 2004, computed by rouge-score.

    Text in Latin letters gives exactly the numbers of rouge-score's defaults (no stemming). Those drop everything
    but a-z and 0-9, so Chinese would always score 0: rows with Chinese or Japanese in them are cut by character,
    rows mostly in another script (Cyrillic, Arabic, …) into words.

    Example: 3 of 4 predicted words are among 3 reference words: P 3/4, R 1, F 6/7.

    >>> numbers = Rouge().compute(Scored(predictions=["the cat sat down"], references=[("the cat sat",)]))
    >>> {name: round(value, 3) for name, value in numbers.items()}
    {'rouge1': 0.857, 'rouge2': 0.8, 'rougeL': 0.857}
    >>> Rouge().compute(Scored(predictions=["今天下雨"], references=[("今天晴",)]))["rouge1"]  # P 2/4, R 2/3
    0.5714285714285715
    """

    summary = "overlap with the reference texts (ROUGE F-measures)"
    kind = "text"
    numbers = (
        Number("rouge1", "overlap of single words, F-measure 0 to 1", mean_of_rows=True),
        Number("rouge2", "overlap of pairs of words, F-measure 0 to 1", mean_of_rows=True),
        Number("rougeL", "longest common subsequence, F-measure 0 to 1", mean_of_rows=True),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        from rouge_score.rouge_scorer import RougeScorer

        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        latin, other = RougeScorer(list(_NAMES)), RougeScorer(list(_NAMES), tokenizer=_AnyScript())
        sums = dict.fromkeys(_NAMES, 0.0)
        for prediction, answers in rows:
            best = (latin if _latin(prediction, *answers) else other).score_multi(answers, prediction)
            for name in _NAMES:
                sums[name] += float(best[name].fmeasure)
        return {name: total / len(rows) for name, total in sums.items()}


class _AnyScript:
    """What rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


def _latin(prediction: str, *answers: str) -> bool:
    """Whether rouge-score's own tokens (a-z, 0-9) see most of the references and nothing of the row is CJK."""
    if any(has_cjk(text) for text in (prediction, *answers)):
        return False
    letters: list[str] = re.findall(r"[^\W\d_]", "".join(answers))
    return 2 * sum(letter.isascii() for letter in letters) >= len(letters)
