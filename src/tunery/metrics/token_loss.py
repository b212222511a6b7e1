"""Loss and perplexity."""

from __future__ import annotations

import math

from tunery.protocols import Metric, Number, Scored

_MOST = 700.0
"""exp of more than 709 does not fit a float."""


class TokenLoss(Metric):
    """Mean loss of a target, and perplexity = exp(loss).

    The mean is over all targets of the data (supervised tokens; rows for tasks that score rows), not over
    batches or rows: loss = loss_sum / loss_count, in nats. Perplexity speaks of tokens: it means nothing for a
    classifier or a regression. It stops at exp(700), about 1e304.

    >>> numbers = TokenLoss().compute(Scored(loss_sum=6.931471805599453, loss_count=10))
    >>> {name: round(value, 4) for name, value in numbers.items()}
    {'loss': 0.6931, 'perplexity': 2.0}
    """

    summary = "mean loss of a target, and perplexity"
    kind = "loss"
    numbers = (
        Number("loss", "mean loss of a target (a supervised token, or a row)", higher_is_better=False),
        Number("perplexity", "exp(loss): among how many equally likely tokens it hesitates", higher_is_better=False),
    )

    def compute(self, scored: Scored) -> dict[str, float]:
        """Nothing if no target was counted."""
        if not scored.loss_count:
            return {}
        loss = float(scored.loss_sum) / scored.loss_count
        return {"loss": loss, "perplexity": math.exp(min(loss, _MOST))}
