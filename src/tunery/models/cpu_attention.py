"""Attention whose backward pass is fast on a CPU.

SDPA's flash kernel takes a third of a LoRA step of smollm2 there, nearly all of it in the backward pass, and eager
attention keeps fp32 copies of [heads, length, length] for each row and layer. Here the forward pass is SDPA's. In the
backward pass a block of queries is small enough for the cache, what a causal block cannot see is not computed, and keys
that several heads share are not copied; shares are computed again, so that only queries, keys and values are kept (Dao
et al. 2022, arXiv:2205.14135).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NAME = "tunery_cpu"
BLOCK = 1 << 20
"""Scores of a block of queries, all rows and heads together: 2 MB in bf16."""


def register() -> None:
    """Make it known to transformers; its masks are those of SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """As transformers' SDPA function: [rows, heads, length, size] each → [rows, length, heads, size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = attention_mask is None or attention_mask.dtype == torch.bool
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if dropout or not plain or not learns or settings.get("position_bias") is not None:
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **settings
        )
        return found, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _Attention.apply(query, key, value, attention_mask, causal, scale)  # type: ignore[no-untyped-call]
    return out, None


class _Attention(torch.autograd.Function):
    """query [rows, heads, length, size]; key, value [rows, groups, keys, size]; mask [rows or 1, 1, length, keys],
    true where a key is visible, or None → [rows, length, heads, size].
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.causal, ctx.scale = causal, scale
        square = causal and mask is None and query.shape[2] == key.shape[2]
        if causal and mask is None and not square:  # SDPA would align the triangle with the first key
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
            mask = mask.tril(key.shape[2] - query.shape[2])
        out = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=square, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        return *gradients(query, key, value, mask, ctx.causal, ctx.scale, grad), None, None, None


def gradients(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value, from that of the output [rows, length, heads, size]."""
    grad_query = torch.empty_like(query)
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
    by_head = grad.transpose(1, 2)
    hidden = None if mask is None else _added(~mask, query.dtype)
    for part, seen in _blocks(query, key, causal):
        shares, asked = _shares(query, key, hidden, causal, scale, part, seen)
        given = by_head[:, :, part].reshape(len(keys), -1, value.shape[-1])
        grad_shares = torch.bmm(given, values[:, :seen].transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
        grad_values[:, :seen] += torch.bmm(shares.transpose(1, 2), given)
        grad_keys[:, :seen] += torch.bmm(grad_scores.transpose(1, 2), asked)
        found = torch.bmm(grad_scores, keys[:, :seen]).mul_(scale)
        grad_query[:, :, part] = found.view(*query.shape[:2], -1, query.shape[-1])
    return grad_query, grad_keys.view_as(key), grad_values.view_as(value)


def _blocks(query: Tensor, key: Tensor, causal: bool) -> Iterator[tuple[slice, int]]:
    """Blocks of queries, and how many keys the last query of each may see (keys in front belong to a prefix)."""
    rows, heads, length, _ = query.shape
    keys = key.shape[2]
    size = min(max(BLOCK // (rows * heads * keys), 16), length)
    for start in range(0, length, size):
        end = min(start + size, length)
        yield slice(start, end), end + keys - length if causal else keys


def _shares(
    query: Tensor, key: Tensor, hidden: Tensor | None, causal: bool, scale: float, part: slice, seen: int
) -> tuple[Tensor, Tensor]:
    """Softmax over the keys, and the scaled queries: [rows * groups, heads of a group * queries, keys or size];
    ``hidden`` [rows or 1, 1, length, keys] is added to the scores.
    """
    rows, groups = key.shape[:2]
    asked = query[:, :, part].reshape(rows * groups, -1, query.shape[-1]) * scale
    scores = torch.bmm(asked, key.flatten(0, 1)[:, :seen].transpose(1, 2))
    count = part.stop - part.start
    square = scores.view(rows, -1, count, seen)  # [rows, heads, queries, keys]
    if hidden is not None:
        square.add_(hidden[:, :, part, :seen])
    elif causal:
        later = torch.ones(count, count, dtype=torch.bool, device=scores.device).triu(1)
        square[..., seen - count :].add_(_added(later, scores.dtype))
    return scores.softmax(-1), asked


def _added(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is visible, else what makes its share 0: adding takes a third of the time of filling by a mask."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)
