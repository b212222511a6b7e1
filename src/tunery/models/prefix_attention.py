"""Where a model's attention functions see keys and values, and how to let them see some more in front.

transformers looks its attention function up by the name in the config of the attention module. Each module gets a
copy of that config with a name of ours; the model itself keeps its own, so masks are made as before, ``eager`` and
``sdpa`` can be switched between batches, and the base is back bit by bit when the modules get their configs back.
DeBERTa-v2 computes its disentangled attention without that interface: there the module's forward is replaced.

Prefix columns are visible to every position: neither causality nor padding nor a sliding window applies to them.
They never enter a cache, so each decoding step sees them once.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunery.models import cpu_attention

NAME = "tunery_prefix"
"""What the attention function is called in the copies of the config."""
KERNELS = ("eager", "sdpa", cpu_attention.NAME)
KeysValues = tuple[Tensor, Tensor]
"""Each [heads, length, size], or with the rows of a batch in front; keys as attention sees them (rotated)."""
Attention = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Read:
    """What one attention module saw when the model read something; keys and values [heads, length, size]."""

    module: nn.Module
    keys: Tensor
    values: Tensor
    cross: bool
    """Whether it looked at another sequence (the encoder's output) than its own."""


class Site:
    """One attention module, and the two ways it can compute: as the base does, or with vectors in front.

    Args:
        prefix: called with the number of rows, gives keys and values [rows, heads, length, size].
    """

    def __init__(self, module: Any, prefix: Callable[[int], KeysValues]) -> None:
        self.module = module
        self.prefix = prefix
        self.config = None if _disentangled(module) else module.config

    def open(self) -> None:
        """Let the module see the prefix."""
        if self.config is None:
            self.module.forward = partial(_disentangled_forward, self.module, self.prefix)
        else:
            self.module.config = _with(self.config, partial(_attend, self.config, self.prefix))

    def close(self) -> None:
        """The base's own path."""
        if self.config is None:
            vars(self.module).pop("forward", None)
        else:
            self.module.config = self.config


# ------------------------------------------------------------------------------- where, and what is seen


def backbone(model: Any) -> Any:
    """The model without its head."""
    inner = getattr(model, "backbone", model)
    return getattr(inner, "base_model", inner)


def takes(model: Any, argument: str) -> bool:
    return argument in inspect.signature(backbone(model).forward).parameters


@torch.no_grad()
def read(model: nn.Module, ids: Tensor, decoder_ids: Tensor, **inputs: Tensor) -> list[Read]:
    """What each attention module sees of a text, in the order in which they first compute.

    Args:
        ids: [length]; ``decoder_ids``: what the decoder of an encoder-decoder model reads, [length].
        inputs: others of the backbone, such as ``position_ids``.
    """
    found: dict[nn.Module, Read] = {}

    def note(module: nn.Module, query: Tensor, keys: Tensor, values: Tensor, own: bool = False) -> None:
        cross = not own and query.shape[2] != keys.shape[2]
        # laid out in order: fused AdamW pairs a parameter with its moments, which are so in a checkpoint, by place
        own_keys, own_values = (t[0].clone(memory_format=torch.contiguous_format) for t in (keys, values))
        found.setdefault(module, Read(module, own_keys, own_values, cross))

    inputs |= {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    if takes(model, "decoder_input_ids"):
        inputs["decoder_input_ids"] = decoder_ids[None]
    settings = {"use_cache": False} if takes(model, "use_cache") else {}
    was_training = model.training
    undo = [_listen(module, note) for module in _candidates(model)]
    try:
        backbone(model.eval())(**inputs, **settings)
    finally:
        model.train(was_training)
        for close in undo:
            close()
    return list(found.values())


def _candidates(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that may compute attention through the interface, and DeBERTa-v2's."""
    from transformers import PreTrainedModel

    needed = {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"}
    for module in model.modules():
        part = not isinstance(module, PreTrainedModel) and hasattr(module, "config")
        if _disentangled(module) or (part and needed <= names_of(module).keys()):
            yield module


def _listen(module: Any, note: Callable[..., None]) -> Callable[[], None]:
    """→ how to stop listening."""
    if _disentangled(module):

        def hear(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            heads = [_heads(module, part(args[0])) for part in (module.query_proj, module.key_proj, module.value_proj)]
            note(module, *heads, own=True)

        return module.register_forward_pre_hook(hear).remove  # type: ignore[no-any-return]
    config = module.config

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **settings: Any) -> Any:
        note(module, query, key, value)
        return _stock(module, config)(module, query, key, value, *args, **settings)

    module.config = _with(config, attend)
    return partial(setattr, module, "config", config)


# ----------------------------------------------------------------------- transformers' attention interface


def _with(config: Any, attention: Attention) -> Any:
    """A copy of a module's config that leads to this attention function."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _dispatch)
    changed = copy.copy(config)
    changed._attn_implementation_internal = NAME  # the public setter would change shared sub-configs too
    changed.tunery_attention = attention
    return changed


def _dispatch(module: Any, *args: Any, **settings: Any) -> Any:
    return module.config.tunery_attention(module, *args, **settings)


def names_of(module: nn.Module) -> dict[str, Any]:
    """What the module's forward finds by name."""
    return inspect.unwrap(type(module).forward).__globals__  # type: ignore[no-any-return]


def _stock(module: Any, config: Any) -> Attention:
    """The attention function that the module takes with its own config."""
    if config._attn_implementation == "eager" and getattr(module, "reorder_and_upcast_attn", False):  # GPT-2
        return lambda _module, query, key, value, mask, **_: module._upcast_and_reordered_attn(query, key, value, mask)
    names = names_of(module)
    found: Attention = names["ALL_ATTENTION_FUNCTIONS"].get_interface(
        config._attn_implementation, names["eager_attention_forward"]
    )
    return found


def _attend(
    config: Any,
    prefix: Callable[[int], KeysValues],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_bias: Tensor | None = None,
    **settings: Any,
) -> Any:
    """Attention with the prefix in front of keys and values; query [rows, heads, length, size]."""
    keys, values = prefix(len(key))
    length = keys.shape[2]
    causal = settings.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is not None:
        visible: bool | float = True if attention_mask.dtype == torch.bool else 0.0
        attention_mask = F.pad(attention_mask, (length, 0), value=visible)
    elif causal and query.shape[2] > 1 and config._attn_implementation != "eager":
        # no mask means "causal" to SDPA, which counts from the first key: that would be the prefix
        shape = (query.shape[2], length + key.shape[2])
        attention_mask = torch.ones(shape, dtype=torch.bool, device=key.device).tril(length)[None, None]
    if position_bias is not None:  # T5's: a prefix has no position
        settings["position_bias"] = F.pad(position_bias, (length, 0))
    key, value = torch.cat([keys.to(key.dtype), key], 2), torch.cat([values.to(value.dtype), value], 2)
    return _stock(module, config)(module, query, key, value, attention_mask, **settings)


# ------------------------------------------------------------------------------------------- DeBERTa-v2


def _disentangled(module: nn.Module) -> bool:
    return type(module).__name__ == "DisentangledSelfAttention" and hasattr(module, "query_proj")


def _heads(module: Any, states: Tensor) -> Tensor:
    """[rows, length, heads * size] → [rows, heads, length, size]."""
    return states.view(*states.shape[:2], module.num_attention_heads, -1).transpose(1, 2)


def _disentangled_forward(
    module: Any,
    prefix: Callable[[int], KeysValues],
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DeBERTa's attention (He et al. 2021, arXiv:2006.03654) with a prefix, which takes part in content-to-content
    scores only: it has no position that the other two kinds could speak of.
    """
    states = hidden_states if query_states is None else query_states
    query = _heads(module, module.query_proj(states))
    key, value = (_heads(module, part(hidden_states)) for part in (module.key_proj, module.value_proj))
    kinds = 1 + ("c2p" in module.pos_att_type) + ("p2c" in module.pos_att_type)
    scale = 1 / math.sqrt(query.shape[-1] * kinds)
    scores = query @ (key.transpose(-1, -2) * scale)
    if module.relative_attention:
        bias = module.disentangled_attention_bias(
            query.flatten(0, 1), key.flatten(0, 1), relative_pos, module.pos_dropout(rel_embeddings), kinds
        )
        scores = scores + bias.view_as(scores)
    scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
    keys, values = (tensor.to(query.dtype) for tensor in prefix(len(key)))
    scores = torch.cat([query @ (keys.transpose(-1, -2) * scale), scores], -1)
    shares = module.dropout(scores.softmax(-1))
    context = (shares @ torch.cat([values, value], 2)).transpose(1, 2).flatten(2)
    return context, shares if output_attentions else None
