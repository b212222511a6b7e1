"""RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467) that keeps two numbers a token for its backward pass.

The stock layers compute in fp32 and let autograd keep fp32 copies of the whole hidden state: 61 norms of
smollm2 hold a quarter of a training step's memory that way. Here the input, which the residual stream keeps
anyway, and the reciprocal root mean square are enough. Values are those of the stock layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KNOWN = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "Phi3RMSNorm")
"""Layers that compute weight * x / rms(x) in this order; Gemma's, with 1 + weight, is not among them."""


class _RmsNorm(torch.autograd.Function):
    """x [..., hidden], weight [hidden] (frozen) → [..., hidden]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()  # to the bit as the stock layer, so that a disabled adapter is the base
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return wide.mul_(scale).to(x.dtype).mul_(weight) if x.dtype != torch.float32 else wide * scale * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        inner = grad * weight
        share = (inner * x).sum(-1, keepdim=True, dtype=torch.float32) * (scale.pow(3) / x.shape[-1])
        return inner.float().mul_(scale).addcmul_(x.float(), share, value=-1).to(x.dtype), None, None


def install(model: nn.Module) -> None:
    """Use it in every known norm whose weight is frozen."""
    for module in model.modules():
        if type(module).__name__ in KNOWN and "forward" not in vars(module):
            module.forward = _forward(module)


def _forward(layer: Any) -> Any:
    slow = layer.forward

    def forward(hidden_states: Tensor) -> Tensor:
        if layer.weight.requires_grad or layer.weight.dtype != hidden_states.dtype:
            return slow(hidden_states)  # type: ignore[no-any-return]
        out: Tensor = _RmsNorm.apply(  # type: ignore[no-untyped-call]
            hidden_states, layer.weight, layer.variance_epsilon
        )
        return out

    return forward
