"""A prefix in peft's format, where plain peft then computes the same.

peft puts its prefix into the KV cache, so the text begins at position ``length`` and not at 0. With rotary positions
only distances count: keys that are turned on by ``length`` positions give the same scores. Models with learnt
positions read the text with other embeddings then, and nothing makes up for it; encoders and T5 neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunery.models import prefix, weights
from tunery.models.prefix_attention import backbone, names_of

KNOWN = ("llama", "mistral", "qwen2", "qwen3")
"""Kinds of decoder in which every layer has rotary keys of one size."""


def fits(model: Any) -> bool:
    """A flat prefix for a language model without a window: a cached prefix would move out of that."""
    config = backbone(model).config
    types = getattr(config, "layer_types", None) or [_windowed(config)]
    sets = prefix.of(model)
    return (
        config.model_type in KNOWN
        and set(types) == {"full_attention"}
        and model.get_output_embeddings() is not None
        and not sets.of(sets.active or "").projected
        and getattr(_rotary(model), "attention_scaling", None) == 1.0
    )


def _windowed(config: Any) -> str:
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def _rotary(model: Any) -> Any:
    return next((m for m in model.modules() if type(m).__name__.endswith("RotaryEmbedding")), None)


@torch.no_grad()
def save(model: Any, folder: Path) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors`` of the active prefix."""
    from peft import PrefixTuningConfig

    sets = prefix.of(model)
    one = sets.of(sets.active or "")
    heads, length, size = one.keys[0].shape
    place = torch.full((1, 1), length, device=one.keys[0].device)
    turn = names_of(sets.sites[0].module)["apply_rotary_pos_emb"]
    parts: list[Tensor] = []
    for keys, values in zip(one.keys, one.values, strict=True):
        wide = keys[None].float()
        parts += [turn(wide, wide, *_rotary(model)(wide, place))[0][0], values.float()]
    flat = torch.stack(parts).permute(2, 0, 1, 3).reshape(length, -1)  # [length, layers * 2 * heads * size]
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=length,
        num_layers=len(one.keys),
        num_attention_heads=heads,
        token_dim=heads * size,
        inference_mode=True,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    weights.save({"prompt_embeddings": flat}, folder / "adapter_model.safetensors")
