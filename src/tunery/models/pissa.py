"""PiSSA (Meng et al. 2024, arXiv:2404.02948) without touching the base weights.

The paper trains A and B from W's largest singular values A0 and B0, on top of the residual W - s B0 A0. The same
function with the same gradients is W + s (B A - B0 A0): LoRA of twice the rank, [B, -B0] [A; A0], half of it
fixed. So the base stays as it is, to the bit; what is saved is a plain LoRA adapter for the untouched base; and
bf16 does not round the residual.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tunery.models import peft_bridge

EXACT, ITERATIONS = 1024, 16
"""Matrices with up to so many rows or columns are decomposed exactly (a tenth of a second each), larger ones by the
paper's fast variant: a randomised SVD with so many iterations.
"""


class _Beside(nn.Module):
    """[r, n] trained → [2 r, n]: the fixed half below it (``dim`` 1: [n, r] → [n, 2 r], beside it)."""

    fixed: Tensor

    def __init__(self, fixed: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("fixed", fixed, persistent=False)
        self.dim = dim

    def forward(self, trained: Tensor) -> Tensor:
        return torch.cat([trained, self.fixed], self.dim)


@torch.no_grad()
def install(model: nn.Module, name: str = "default") -> None:
    """Start every LoRA layer of an adapter from the singular values of its weight."""
    for _, layer in _layers(model):
        a, b = layer.lora_A[name], layer.lora_B[name]
        first, second = _principal(layer, a.weight.shape[0], layer.scaling[name])
        a.weight.copy_(first)
        b.weight.copy_(second)
        fixed = a.weight.detach().clone(), -b.weight.detach()
        for part, half, dim in zip((a, b), fixed, (0, 1), strict=True):
            parametrize.register_parametrization(part, "weight", _Beside(half, dim), unsafe=True)


def _principal(layer: Any, r: int, scale: float) -> tuple[Tensor, Tensor]:
    """The rank-r part of the weight with the largest singular values, divided by the scale → A [r, in], B [out, r]."""
    weight = layer.get_base_layer().weight.float()
    weight = weight.t() if layer.fan_in_fan_out else weight
    if min(weight.shape) <= EXACT:
        u, s, transposed = torch.linalg.svd(weight, full_matrices=False)
        v = transposed.t()
    else:
        u, s, v = torch.svd_lowrank(weight, q=min(2 * r, *weight.shape), niter=ITERATIONS)
    root = (s[:r] / scale).sqrt()
    a, b = torch.zeros(r, weight.shape[1]), torch.zeros(weight.shape[0], r)
    a[: len(root)], b[:, : len(root)] = root.unsqueeze(1) * v[:, :r].t(), u[:, :r] * root
    return a, b


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def _halves(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _Beside)}


def installed(model: nn.Module) -> bool:
    return bool(_halves(model))


def state(model: nn.Module) -> dict[str, Tensor]:
    """The fixed halves: another machine's SVD may differ in the last bit."""
    return {name: module.fixed for name, module in _halves(model).items()}


def load_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``state``."""
    for name, module in _halves(model).items():
        module.fixed.copy_(tensors[name])


def halves_of(model: nn.Module, source: nn.Module) -> dict[str, Tensor]:
    """What a saved adapter (``source``, plain LoRA of twice the rank) puts into the halves of ``model``, by name."""
    own = dict(source.named_parameters())
    found: dict[str, Tensor] = {}
    for name, module in _halves(model).items():
        layer = name.rpartition(".parametrizations.")[0]
        trained, fixed = own[f"{layer}.weight"].chunk(2, module.dim)
        found |= {f"{layer}.parametrizations.weight.original": trained, f"{name}.fixed": fixed}
    return found


@torch.no_grad()
def save(model: nn.Module, folder: Path, name: str = "default") -> None:
    """A plain LoRA adapter of twice the rank, with the same scale, for the base as it was before."""
    parts = {key: module for key, module in model.named_modules() if parametrize.is_parametrized(module)}
    own = {key: value for key, value in model.state_dict().items() if ".parametrizations." not in key}
    own |= {f"{key}.weight": module.weight for key, module in parts.items()}
    settings = peft_bridge.config(model, name)
    before = {key: getattr(settings, key) for key in ("r", "lora_alpha", "use_rslora")}
    scale = next(layer.scaling[name] for _, layer in _layers(model))
    peft_bridge.configure(model, name, r=2 * settings.r, lora_alpha=scale * 2 * settings.r, use_rslora=False)
    try:
        peft_bridge.save(model, folder, {f"base_model.model.{key}": value for key, value in own.items()})
    finally:
        peft_bridge.configure(model, name, **before)
