"""Which attention kernel to train with on a CPU: eager for short batches, our own for others.

Both take a tenth of a LoRA step of smollm2 where SDPA's flash kernel takes a third; ours does not keep [heads, length,
length] for each row and layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunery.models import cpu_attention

EAGER_UP_TO = 128
"""Longest sequence that is trained with eager attention."""


def choose_attention(model: nn.Module, shape: tuple[int, ...] | torch.Size, device: torch.device) -> None:
    """Set the kernel for a batch of [rows, length]; only switches between SDPA, eager and ours."""
    config: Any = getattr(model, "config", None)
    current = getattr(config, "_attn_implementation", None)
    if device.type != "cpu" or current not in ("sdpa", "eager", cpu_attention.NAME):
        return
    wanted = "eager" if shape[1] <= EAGER_UP_TO else cpu_attention.NAME
    if current == wanted:
        return
    if wanted != "eager" and not all(getattr(type(module), "_supports_sdpa", True) for module in model.modules()):
        return  # Gemma 2 caps its scores, DeBERTa has positions of its own: eager at any length
    cpu_attention.register()
    for module in model.modules():
        inner = getattr(module, "config", None)
        if getattr(inner, "_attn_implementation", None) in ("sdpa", "eager", cpu_attention.NAME):
            inner._attn_implementation = wanted  # type: ignore[union-attr]
