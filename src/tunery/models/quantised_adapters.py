"""Peft's layers around quantised ones, in the dtype that the base computes in.

peft makes their parameters fp32, and some of its forward passes return fp32 whatever came in: the next layer, or
attention, then meets two dtypes and raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tunery.models import quantise


def repair(model: nn.Module) -> None:
    """After a peft method was attached or loaded."""
    if not quantise.is_quantised(model):
        return
    quantise.repair(model)
    dtype = quantise.compute_dtype(model)
    for module in model.modules():
        for name in getattr(module, "adapter_layer_names", ()):
            part = getattr(module, name, None)
            if isinstance(part, nn.Module):
                part.to(dtype)
        make = _FORWARDS.get(f"{type(module).__module__}.{type(module).__name__}")
        if make is not None and "forward" not in vars(module):
            module.forward = make(module)


def _active(layer: Any, parts: Any) -> list[str]:
    return [] if layer.disable_adapters else [name for name in layer.active_adapters if name in parts]


def _rescaling(layer: Any) -> Callable[[Tensor], Tensor]:
    """(IA)³."""

    def forward(x: Tensor) -> Tensor:
        scales = [layer.ia3_l[name].flatten() for name in _active(layer, layer.ia3_l)]
        if layer.is_feedforward:
            for scale in scales:
                x = x * scale
        out: Tensor = layer.base_layer(x)
        if not layer.is_feedforward:
            for scale in scales:
                out = out * scale
        return out

    return forward


def _decomposed(layer: Any) -> Callable[[Tensor], Tensor]:
    """AdaLoRA."""

    def forward(x: Tensor) -> Tensor:
        out: Tensor = layer.base_layer(x)
        for name in _active(layer, layer.lora_A):
            a, b, e = layer.lora_A[name], layer.lora_B[name], layer.lora_E[name]
            update = layer.lora_dropout[name](x) @ (a * e).t() @ b.t()
            scale = layer.scaling[name] / (layer.ranknum[name] + 1e-5)
            out = out + update * scale.to(update.dtype)
        return out

    return forward


_FORWARDS = {
    "peft.tuners.ia3.bnb.Linear4bit": _rescaling,
    "peft.tuners.ia3.bnb.Linear8bitLt": _rescaling,
    "peft.tuners.adalora.bnb.SVDLinear4bit": _decomposed,
    "peft.tuners.adalora.bnb.SVDLinear8bitLt": _decomposed,
}
