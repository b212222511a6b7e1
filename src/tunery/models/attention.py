"""Which attention kernel to train with, measured on CPUs.

On a CPU the backward pass of SDPA's flash kernel is slow for short sequences: 31 % of a step at 8 x 128
tokens, where plain ("eager") attention took 7 %. Eager keeps [heads, length, length] per row and layer, so
long sequences stay with SDPA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

EAGER_UP_TO = 128
"""Longest sequence that is trained with eager attention on a CPU."""


def choose_attention(model: nn.Module, shape: tuple[int, ...] | torch.Size, device: torch.device) -> None:
    """Set the kernel for a batch of [rows, length]; only switches between SDPA and eager."""
    config: Any = getattr(model, "config", None)
    current = getattr(config, "_attn_implementation", None)
    if device.type != "cpu" or current not in ("sdpa", "eager"):
        return
    wanted = "eager" if shape[1] <= EAGER_UP_TO else "sdpa"
    if wanted == "sdpa" and not all(getattr(type(module), "_supports_sdpa", True) for module in model.modules()):
        return  # Gemma 2 caps its scores, DeBERTa has positions of its own: eager at any length
    if current != wanted:
        for module in model.modules():
            inner = getattr(module, "config", None)
            if getattr(inner, "_attn_implementation", None) in ("sdpa", "eager"):
                inner._attn_implementation = wanted  # type: ignore[union-attr]
