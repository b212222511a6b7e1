"""Which attention kernel to train with on a CPU: eager for short batches, our own for others.

Both take a tenth of a LoRA step of smollm2 where SDPA's flash kernel takes a third; ours does not keep [heads, length,
length] for each row and layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunery.models import cpu_attention, joined

EAGER_UP_TO = 128
"""Longest sequence that is trained with eager attention."""


KERNELS = ("sdpa", "eager", cpu_attention.NAME, joined.NAME)


def choose_attention(
    model: nn.Module, shape: tuple[int, ...] | torch.Size, device: torch.device, end_to_end: bool = False
) -> None:
    """Set the kernel to train a batch of [rows, length] with; only switches between SDPA, eager and ours.

    Args:
        end_to_end: the rows lie in one sequence (``data.batch.join``).
    """
    if end_to_end:
        _switch(model, joined.NAME)
    elif device.type == "cpu":
        _switch(model, "eager" if shape[1] <= EAGER_UP_TO else cpu_attention.NAME)


def reset_attention(model: nn.Module) -> None:
    """The kernel of a model fresh from disk: what evaluation finds does not depend on the last batch before it."""
    _switch(model, "sdpa")


def _switch(model: nn.Module, wanted: str) -> None:
    config: Any = getattr(model, "config", None)
    current = getattr(config, "_attn_implementation", None)
    if current == wanted or current not in KERNELS:
        return
    if wanted != "eager" and not all(getattr(type(module), "_supports_sdpa", True) for module in model.modules()):
        return  # Gemma 2 caps its scores, DeBERTa has positions of its own: eager at any length
    cpu_attention.register()
    joined.register()
    for module in model.modules():
        inner = getattr(module, "config", None)
        if getattr(inner, "_attn_implementation", None) in KERNELS:
            inner._attn_implementation = wanted  # type: ignore[union-attr]
