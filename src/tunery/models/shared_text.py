"""A text that many rows begin with is read once, and its keys and values serve them all.

Few-shot examples in a prompt are longer than what is asked after them; without this a model would read them for
every row.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunery.protocols import IGNORE, SOFT, Encoded

LEAST = 16
"""Tokens from which it is worth it."""


class AfterText(nn.Module):
    """A causal model that has read ``ids``: rows are what comes behind them, padded on the right.

    The same numbers as from whole rows, but for the last bits.
    """

    def __init__(self, model: Any, ids: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        read = torch.tensor([list(ids)], device=next(model.parameters()).device)
        self.size = read.shape[1]
        self.past = model(input_ids=read, use_cache=True).past_key_values

    def get_output_embeddings(self) -> Any:
        return self.model.get_output_embeddings()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        """[rows, length] each."""
        rows, length = input_ids.shape
        past = copy.deepcopy(self.past)  # a model adds to what it is given
        past.batch_repeat_interleave(rows)
        places = torch.arange(self.size, self.size + length, device=input_ids.device)
        return self.model(
            input_ids=input_ids,
            attention_mask=torch.cat([attention_mask.new_ones(rows, self.size), attention_mask], 1),
            position_ids=places.expand(rows, -1),
            past_key_values=past,
            use_cache=True,
        )


def shared(rows: Sequence[Encoded]) -> int:
    """Tokens that all rows begin with and that none of them predicts; each row keeps one before its first target.

    0 if they are too few to matter.
    """  # what the first and the last in lexical order share all between them share
    if len(rows) < 2:
        return 0
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    for row in rows:
        targets = [i for i, label in enumerate(row.labels or ()) if label != IGNORE]
        begun = row.span[0] if row.span else targets[0] if targets else len(row.ids)
        common = min(common, begun - 1)
    return common if common >= LEAST and max(rows[0].ids[:common]) < SOFT else 0


def behind(row: Encoded, size: int) -> Encoded:
    """The row without its first ``size`` tokens."""
    span = (row.span[0] - size, row.span[1] - size) if row.span else None
    labels = row.labels[size:] if row.labels is not None else None
    return Encoded(ids=row.ids[size:], labels=labels, target=row.target, span=span, row=row.row)


def after(model: Any, rows: Sequence[Encoded]) -> tuple[Any, Sequence[Encoded]]:
    """For causal models: model and rows as they are, or the model that has read what the rows share and what is left
    of them.
    """
    from transformers import DynamicCache

    size = shared(rows)
    if not size:
        return model, rows
    read = AfterText(model, rows[0].ids[:size])
    if not isinstance(read.past, DynamicCache):  # recurrent models remember in another way
        return model, rows
    return read.eval(), [behind(row, size) for row in rows]
