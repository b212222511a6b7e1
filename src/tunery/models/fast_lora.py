"""LoRA's forward and backward without the passes over large tensors that autograd would add.

y = x W' + s (x A') B'. peft computes the update, scales it and adds it: three more tensors of the size of y
in the forward pass and as many in the backward one. Here the update is accumulated into y by the matrix
product itself, and the scale is applied to tensors of width r. Values are those of peft up to rounding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _LoraLinear(torch.autograd.Function):
    """x [rows, in], weight [out, in] (frozen), bias [out] or None (frozen), a [r, in], b [out, r] → [rows, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        narrow = (x @ a.t()).mul_(scale)
        out = F.linear(x, weight, bias).addmm_(narrow, b.t())  # alpha=scale would cost a tensor of out's size
        ctx.save_for_backward(x, weight, a, b, narrow)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, weight, a, b, narrow = ctx.saved_tensors
        grad_narrow = (grad @ b) * ctx.scale
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x.addmm_(grad_narrow, a)
        return grad_x, None, None, grad_narrow.t() @ x, grad.t() @ narrow, None


def install(model: nn.Module) -> None:
    """Use the fast path in every plain LoRA layer of a model that peft has changed."""
    for module in model.modules():
        plain = type(module) is _lora_linear() and type(module.base_layer) is nn.Linear
        if plain and "forward" not in vars(module):
            module.forward = _forward(module)


@cache
def _lora_linear() -> Any:
    from peft.tuners.lora import Linear

    return Linear


def _forward(layer: Any) -> Any:
    """The layer's forward: ours while one plain adapter is active on a frozen weight, else peft's."""
    slow = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = None if args or kwargs else plain_adapter(layer, x)
        if name is None:
            return slow(x, *args, **kwargs)  # type: ignore[no-any-return]
        base = layer.base_layer
        flat = x.reshape(-1, x.shape[-1])
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            flat, base.weight, base.bias, a, b, layer.scaling[name]
        )
        return out.view(*x.shape[:-1], out.shape[-1])

    return forward


def plain_adapter(layer: Any, x: Tensor) -> str | None:
    """The name of the one active adapter of a plain LoRA layer; None where peft's own forward is needed."""
    if type(layer) is not _lora_linear() or type(layer.base_layer) is not nn.Linear:
        return None  # quantised layers are subclasses
    active = layer.active_adapters
    return active[0] if len(active) == 1 and _plain(layer, active[0], x) else None


def _plain(layer: Any, name: str, x: Tensor) -> bool:
    """No dropout at work, no variant (DoRA), not merged, frozen base, one dtype."""
    if name not in layer.lora_A or layer.disable_adapters or layer.merged or layer.use_dora.get(name):
        return False
    dropout = layer.lora_dropout[name]
    if layer.training and getattr(dropout, "p", 0.0) > 0:
        return False
    if name in getattr(layer, "lora_variant", {}) or getattr(layer, "lora_bias", {}).get(name):
        return False
    base, a = layer.base_layer, layer.lora_A[name].weight
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        return False
    return bool(x.dtype == base.weight.dtype == a.dtype) and not torch.is_autocast_enabled(x.device.type)
