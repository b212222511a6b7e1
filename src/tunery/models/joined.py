"""Attention over rows that lie end to end in one sequence, so that a forward pass has no padding.

All else in a decoder layer looks at one token at a time and does not see where a row ends. Here each row attends to
itself alone, and its positions begin at 0, so what is computed for a row is what it would be on its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunery.models.cpu_attention import gradients

NAME = "tunery_joined"
MODELS = ("llama", "mistral", "qwen2", "qwen3")
"""Decoders whose tokens meet in attention alone, with positions given by ``position_ids`` alone."""


def fits(config: Any, device: torch.device) -> bool:
    """Whether this model computes rows end to end as it does apart. ``config``: transformers' of the model."""
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    dropout = getattr(config, "attention_dropout", 0.0)
    return device.type == "cpu" and config.model_type in MODELS and not windows and not dropout


def register() -> None:
    """Make it known to transformers, which makes no mask for it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """[1, heads or groups, tokens, size] each → [1, tokens, heads, size]; row i is the tokens from
    ``cu_seq_lens_q[i]`` to ``cu_seq_lens_q[i + 1]``.
    """
    if cu_seq_lens_q is None or attention_mask is not None or dropout:
        raise ValueError("rows end to end need their ends, and neither a mask nor dropout")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = [slice(*ends) for ends in pairwise(cu_seq_lens_q.tolist())]
    out: Tensor = _Rows.apply(query, key, value, rows, scale)  # type: ignore[no-untyped-call]
    return out, None


class _Rows(torch.autograd.Function):
    """query [1, heads, tokens, size]; key, value [1, groups, tokens, size] → [1, tokens, heads, size]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: list[slice], scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.rows, ctx.scale = rows, scale
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        shared = key.shape[1] != query.shape[1]
        for row in rows:
            q, k, v = (tensor[:, :, row] for tensor in (query, key, value))
            found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=shared)
            out[:, row] = found.transpose(1, 2)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = [torch.empty_like(tensor) for tensor in tensors]
        for row in ctx.rows:
            q, k, v = (tensor[:, :, row].contiguous() for tensor in tensors)
            for whole, part in zip(found, gradients(q, k, v, None, True, ctx.scale, grad[:, row]), strict=True):
                whole[:, :, row] = part
        return *found, None, None
