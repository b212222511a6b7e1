"""Which models a GGUF file can hold here, and how llama.cpp wants their numbers and weights.

llama.cpp rotates neighbouring dimensions of a head in its ``llama`` architecture, where transformers rotates the two
halves of it: rows of q and k move (and nothing else does). In its Qwen architectures it rotates halves as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunery.errors import ConfigError

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model type → llama.cpp's architecture."""
SUFFIXES = (".weight", ".bias")
HINT = "use --to merged; llama.cpp's own convert_hf_to_gguf.py may know more models"


def refused(problem: str) -> ConfigError:
    return ConfigError(f"not as GGUF: {problem}", HINT, "--to")


@dataclass(frozen=True, slots=True)
class Layout:
    """What of a model's configuration decides where its weights go."""

    architecture: str
    blocks: int
    heads: int
    kv_heads: int
    head_size: int

    def name(self, tensor: str) -> str:
        """A tensor of transformers by llama.cpp's name. Raises ConfigError if it has none."""
        import gguf

        architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == self.architecture)
        found = gguf.get_tensor_name_map(architecture, self.blocks).get_name(tensor, SUFFIXES)
        if found is None:
            raise refused(f"llama.cpp's architecture {self.architecture} has no tensor for {tensor}")
        return str(found)

    def rows(self, tensor: str, values: Tensor) -> Tensor:
        """The rows of q and k in llama.cpp's order. ``values``: [out, …], of a weight, a bias or LoRA's B."""
        part = tensor.rpartition("self_attn.")[2].partition(".")[0]
        heads = {"q_proj": self.heads, "k_proj": self.kv_heads}.get(part)
        if heads is None or self.architecture != "llama":
            return values
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return halves.transpose(1, 2).reshape(values.shape)


def layout_of(config: Any) -> Layout:
    """Raises ConfigError with the reason if llama.cpp would compute something else than this model."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise refused(f"written here are {', '.join(ARCHITECTURES)}, and this model is of type {kind}")
    if config.hidden_act != "silu":
        raise refused(f"the model's activation is {config.hidden_act}, llama.cpp computes silu")
    rope = dict(config.rope_parameters or {})
    scaling = rope.get("rope_type", "default")
    known = ("default", "linear", "llama3") if ARCHITECTURES[kind] == "llama" else ("default", "linear")
    if scaling not in known or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise refused(f"rotary positions of type {scaling} in a {kind}")
    heads = int(config.num_attention_heads)
    return Layout(
        architecture=ARCHITECTURES[kind],
        blocks=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(config.num_key_value_heads or heads),
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
    )


def context_of(config: Any) -> int:
    """Tokens that llama.cpp reads as the model was meant to: it knows no sliding window in these architectures."""
    window = getattr(config, "sliding_window", None)
    longest = int(config.max_position_embeddings)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    return min(longest, int(window)) if window and sliding else longest


def describe(writer: Any, config: Any, layout: Layout) -> None:
    """The numbers of the architecture, as metadata."""
    import gguf

    writer.add_context_length(context_of(config))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_block_count(layout.blocks)
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.kv_heads)
    writer.add_key_length(layout.head_size)
    writer.add_value_length(layout.head_size)
    writer.add_rope_dimension_count(layout.head_size)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_vocab_size(int(config.vocab_size))
    rope = dict(config.rope_parameters or {})
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def tensors(model: nn.Module, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """Weights under llama.cpp's names, in its order of rows; a head that is tied to the embeddings is left out."""
    config: Any = model.config
    factors = rope_factors(config, layout)
    if factors is not None:
        yield "rope_freqs.weight", factors
    own = model.state_dict()
    embeddings = own["model.embed_tokens.weight"]
    for name, values in own.items():
        if name == "lm_head.weight" and values.data_ptr() == embeddings.data_ptr():
            continue
        yield layout.name(name), layout.rows(name, values.detach())


def rope_factors(config: Any, layout: Layout) -> Tensor | None:
    """[head_size / 2] by which llama.cpp divides the frequencies, where the positions are scaled as in Llama 3.1
    (transformers' ``rope_type`` llama3): high frequencies stay, low ones are slowed down, those between blend.
    """
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type") != "llama3":
        return None
    powers = torch.arange(0, layout.head_size, 2, dtype=torch.float64) / layout.head_size
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** powers
    turns = float(rope["original_max_position_embeddings"]) / wavelength
    low, high, factor = float(rope["low_freq_factor"]), float(rope["high_freq_factor"]), float(rope["factor"])
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - share) / factor + share)).float()
