"""LoRA's forward and backward without the passes over large tensors that autograd would add.

y = x W' + s (x A') B'. peft computes the update, scales it and adds it: three more tensors of the size of y
in the forward pass and as many in the backward one. Here the update is accumulated into y by the matrix
product itself, and the scale is applied to tensors of width r. Values are those of peft up to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _LoraLinear(torch.autograd.Function):
    """x [rows, in], weight [out, in] (frozen), bias [out] or None (frozen), a [r, in], b [out, r] → [rows, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        narrow = x @ a.t()
        out = F.linear(x, weight, bias)
        out.addmm_(narrow, b.t(), alpha=scale)
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
        return grad_x, None, None, grad_narrow.t() @ x, grad.t() @ (narrow * ctx.scale), None


def install(model: nn.Module) -> None:
    """Use the fast path in every plain LoRA layer of a model that peft has changed."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        plain = type(module) is Linear and type(module.base_layer) is nn.Linear  # quantised layers are subclasses
        if plain and "forward" not in vars(module):
            module.forward = _forward(module)


def _forward(layer: Any) -> Any:
    """The layer's forward: ours while one plain adapter is active on a frozen weight, else peft's."""
    slow = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        active = layer.active_adapters
        if args or kwargs or len(active) != 1 or not _plain(layer, active[0], x):
            return slow(x, *args, **kwargs)  # type: ignore[no-any-return]
        name, base = active[0], layer.base_layer
        flat = x.reshape(-1, x.shape[-1])
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        out: Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            flat, base.weight, base.bias, a, b, layer.scaling[name]
        )
        return out.view(*x.shape[:-1], out.shape[-1])

    return forward


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
