"""BLEU of translations."""

from __future__ import annotations

from tunery.metrics._text import answered, is_chinese
from tunery.protocols import Metric, Number, Scored


class Bleu(Metric):
    """Corpus BLEU on sacrebleu's scale of 0 to 100 (the only number here that does not end at 1).

    BLEU = 100 · min(1, exp(1 - r/c)) · (p1 p2 p3 p4)^¼ over the whole data: pn is the share of predicted n-grams
    that occur in a reference, c and r the lengths of predictions and nearest references. Source: Papineni et al.
    2002; sacrebleu's defaults (exponential smoothing), several references a row allowed. Tokens are those of
    sacrebleu's ``zh`` where the references are mostly Chinese, else ``13a``.

    As it needs 4-grams, data whose texts all have fewer than four tokens score 0 even if they are right: use
    ``exact_match`` there.

    Example: 4/5 of the words, 3/4 of the pairs, 2/3 and 1/2 of the longer runs are right: 100 (1/5)^¼.

    >>> round(Bleu().compute(Scored(predictions=["a b c d e"], references=[("a b c d f",)]))["bleu"], 2)
    66.87
    """

    summary = "n-gram precision of translations (sacrebleu, 0 to 100)"
    kind = "text"
    numbers = (Number("bleu", "corpus BLEU, 0 to 100"),)

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no row has a reference."""
        import sacrebleu

        rows = answered(scored.predictions, scored.references)
        if not rows:
            return {}
        most = max(len(answers) for _, answers in rows)
        # sacrebleu takes one list per reference number, with None where a row has fewer.
        streams = [[answers[i] if i < len(answers) else None for _, answers in rows] for i in range(most)]
        chinese = is_chinese("\n".join(answer for _, answers in rows for answer in answers))
        score = sacrebleu.corpus_bleu(
            [prediction for prediction, _ in rows],
            streams,
            tokenize="zh" if chinese else "13a",
            force=True,  # silences its advice on tokenised text
        )
        return {"bleu": float(score.score)}
