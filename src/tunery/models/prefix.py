"""Trained keys and values in front of every self-attention layer, several sets of them over one base.

Vectors of one set are ``prefix.0.keys.3`` [heads, length, size] and ``prefix.0.values.3`` in the model, 0 being the
number of the set and 3 that of the attention module. They begin as the keys and values of something the base read.
With a projection an MLP over one embedding (Li & Liang 2021) says what is added to them; its last layer has one matrix
for each attention module, so that a layer's vectors are made where they are needed and gradient checkpointing can
compute them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunery.errors import ModelError
from tunery.models import weights
from tunery.models.named_heads import NamedHeads
from tunery.models.prefix_attention import KERNELS, KeysValues, Read, Site, backbone, read, takes

FILE = "prefix.safetensors"


class Prefix(nn.Module):
    """One set.

    Args:
        start: keys and values [heads, length, size] to begin with, for each attention module. With a projection, what
            the MLP says is added to them, nothing at first, and they stay as they are.
        projection: hidden size of the MLP, 0 for none.
        width: of the embedding under it.
        dropout: on the vectors, in training.
    """

    def __init__(self, start: Sequence[KeysValues], projection: int, width: int, dropout: float) -> None:
        super().__init__()
        self.projected, self.rate = projection > 0, dropout
        self._made: tuple[list[tuple[int, int]], list[KeysValues]] = ([], [])
        self.keys = nn.ParameterList(nn.Parameter(keys, not projection) for keys, _ in start)
        self.values = nn.ParameterList(nn.Parameter(values, not projection) for _, values in start)
        if projection:
            given: Any = {"dtype": start[0][0].dtype, "device": start[0][0].device}
            self.embedding = nn.Parameter(torch.randn(start[0][0].shape[1], width, **given))
            self.hidden = nn.Linear(width, projection, **given)
            sizes = [len(keys) * (keys.shape[2] + values.shape[2]) for keys, values in start]
            self.outputs = nn.ParameterList(torch.zeros(size, projection, **given) for size in sizes)
            self.biases = nn.ParameterList(torch.zeros(size, **given) for size in sizes)

    def _one(self, number: int) -> KeysValues:
        """Keys and values [heads, length, size] of one attention module."""
        keys, values = self.keys[number], self.values[number]
        if not self.projected:
            return keys, values
        both = F.linear(self.hidden(self.embedding).tanh(), self.outputs[number], self.biases[number])
        parts = torch.split(both, [keys[:, 0].numel(), values[:, 0].numel()], -1)
        k, v = (part.view(len(part), len(keys), -1).transpose(0, 1) for part in parts)
        return keys + k, values + v

    def _kept(self, number: int) -> KeysValues:
        """The same, computed once for all steps of decoding: the weights' versions tell when they change."""
        versions = [(p._version, p.data_ptr()) for p in self.parameters()]
        if self._made[0] != versions:
            self._made = (versions, [self._one(i) for i in range(len(self.keys))])
        return self._made[1][number]

    def forward(self, number: int, rows: int) -> KeysValues:
        """Keys and values [rows, heads, length, size] for attention module ``number``."""
        if self.projected and not self.training and not torch.is_grad_enabled():
            pair = self._kept(number)
        else:
            pair, self._made = self._one(number), ([], [])  # fused AdamW changes weights, but not their versions
        rate = self.rate if self.training else 0.0
        keys, values = (F.dropout(wide, rate) if rate else wide for wide in (t.expand(rows, -1, -1, -1) for t in pair))
        return keys, values


class Prefixes(nn.Module):
    """All sets over one base, by number; ``model.prefix``."""

    def __init__(self, model: nn.Module, found: Sequence[Read]) -> None:
        super().__init__()
        self.found = tuple(found)
        self.sites = [Site(one.module, partial(self._vectors, number)) for number, one in enumerate(found)]
        self.names: list[str] = []
        self.active: str | None = None
        self.heads = NamedHeads()
        self.width: int = backbone(model).config.hidden_size

    def of(self, name: str) -> Any:
        """Raises ModelError."""
        if name not in self.names:
            raise ModelError(f"no adapter {name!r} is loaded", f"loaded: {', '.join(self.names)}")
        return self.get_submodule(str(self.names.index(name)))

    def put(self, name: str, one: Prefix) -> None:
        if name not in self.names:
            self.names.append(name)
        self.add_module(str(self.names.index(name)), one)

    def numbers(self, cross: bool) -> list[int]:
        """Of the attention modules, all or those of self-attention."""
        return [number for number, one in enumerate(self.found) if cross or not one.cross]

    def reached(self, name: str) -> list[int]:
        """Numbers of the attention modules that a set is for: all, or those of self-attention."""
        return self.numbers(len(self.of(name).keys) == len(self.found))

    def _vectors(self, number: int, rows: int) -> KeysValues:
        name = self.active or ""
        return self.of(name)(self.reached(name).index(number), rows)  # type: ignore[no-any-return]


def of(model: Any) -> Prefixes:
    """Those of a model, made at the first call. Raises ModelError if its attention cannot be reached."""
    if not isinstance(getattr(model, "prefix", None), Prefixes):
        found = _probe(model)
        if not found:
            raise ModelError(f"a prefix cannot reach the attention of {type(model).__name__}", "use method=prompt")
        model.add_module("prefix", Prefixes(model, found))
    return model.prefix  # type: ignore[no-any-return]


def refusal(model: Any, length: int) -> str | None:
    """Why a prefix cannot be attached."""
    config = backbone(model).config
    if config._attn_implementation not in KERNELS:
        return f"a prefix needs eager or sdpa attention, not {config._attn_implementation}; use method=lora"
    longest = getattr(config, "max_position_embeddings", None)
    if longest and length > longest - 2 and not _rotary(model):  # RoBERTa's positions begin at 2
        return f"the prefix is longer than the {longest - 2} positions the model can read; lower method.length"
    if not _probe(model):
        return f"{type(model).__name__} computes attention where a prefix cannot reach it; use method=prompt or lora"
    return None


def _words(model: Any) -> Tensor:
    return backbone(model).get_input_embeddings().weight  # type: ignore[no-any-return]


def _probe(model: Any) -> list[Read]:
    ids = torch.arange(5, 17, device=_words(model).device) % len(_words(model))
    return read(model, ids, ids[:-1])  # of two lengths, which tells cross-attention from self-attention


def _rotary(model: nn.Module) -> bool:
    return takes(model, "position_ids") and any("RotaryEmbedding" in type(m).__name__ for m in model.modules())


def from_text(model: Any, ids: Tensor, cross: bool) -> list[KeysValues]:
    """Keys and values of a text [length] as attention sees them, for each attention module.

    Rotary positions are counted backwards, the text's last token being at -1, so that it stands before the rows that
    begin at 0: for causal models with full attention the result equals having read text and row as one. Learnt
    positions cannot be negative: there the text is read at 0, 1, …, as if rows began at its length.
    """
    positions = {"position_ids": torch.arange(-len(ids), 0, device=ids.device)[None]} if _rotary(model) else {}
    was = of(model).active
    activate(model, None)
    by_module = {one.module: (one.keys, one.values) for one in read(model, ids, ids, **positions)}
    activate(model, was)
    return [by_module[of(model).sites[number].module] for number in of(model).numbers(cross)]


def attach(
    model: Any,
    head: tuple[str, ...],
    text: Sequence[int] | int,
    projection: int = 0,
    dropout: float = 0.0,
    cross: bool = False,
    name: str = "default",
) -> None:
    """A new set to train, with a copy of the base's head; all else is frozen.

    Args:
        text: ids of a text to begin with, or a number of tokens that are drawn at random. Random vectors would take
            attention away and give nothing back: 20 of N(0, 1) raise smollm2's loss on instructions from 2.2 to 9.1
            before the first step, 20 random tokens to 2.3.
        cross: in front of the encoder's output too.
    """
    weights.freeze(model)
    sets, words = of(model), _words(model)
    drawn = torch.randint(len(words), (text,)) if isinstance(text, int) else torch.tensor(text)
    one = Prefix(from_text(model, drawn.to(words.device), cross), projection, sets.width, dropout)
    sets.put(name, one.train(model.training))
    sets.heads.add(model, head, name, None)
    activate(model, name)
    weights.train_modules(model, head)


def activate(model: Any, name: str | None) -> None:
    """Raises ModelError for a name that is not loaded."""
    sets = of(model)
    numbers = [] if name is None else sets.reached(name)
    for number, site in enumerate(sets.sites):
        site.close()
        if number in numbers:
            site.open()
    sets.active = name
    sets.heads.show(model, name)


def frozen(model: Any) -> dict[str, Tensor]:
    """What the sets need beside their trained parameters: the text they began with, under a projection."""
    return {name: p.detach() for name, p in of(model).named_parameters("prefix") if not p.requires_grad}


def save(model: Any, folder: Path) -> None:
    """The active set and its head."""
    sets = of(model)
    name = sets.active or sets.names[0]
    tensors = {f"prefix.{key}": tensor for key, tensor in sets.of(name).state_dict().items()}
    weights.save(tensors | sets.heads.of(model, name), folder / FILE)


def load(model: Any, folder: Path, head: tuple[str, ...], name: str) -> None:
    """Add a set and its head, and make it the active one. Raises ModelError if they do not fit."""
    tensors = weights.read(folder / FILE)
    own = {key.removeprefix("prefix."): t for key, t in tensors.items() if key.startswith("prefix.")}
    sets = of(model)
    weights.freeze(model)
    one = _empty(sets, own, folder / FILE)
    weights.load_into(one, own, folder / FILE)
    sets.put(name, one.requires_grad_(False).eval())
    sets.heads.add(model, head, name, {key: t for key, t in tensors.items() if not key.startswith("prefix.")})
    activate(model, name)


def _empty(sets: Prefixes, tensors: dict[str, Tensor], where: Path) -> Prefix:
    """A set in which these tensors have their places."""
    count = sum(key.startswith("keys.") for key in tensors)
    numbers = sets.numbers(count == len(sets.found))
    if count != len(numbers):
        raise ModelError("this prefix is for another number of layers", "is it of this base model?", str(where))
    length = tensors["keys.0"].shape[1]
    start = [
        (keys.new_zeros(len(keys), length, keys.shape[2]), values.new_zeros(len(values), length, values.shape[2]))
        for keys, values in ((sets.found[number].keys, sets.found[number].values) for number in numbers)
    ]
    with torch.random.fork_rng(devices=[]):
        one = Prefix(start, len(tensors.get("hidden.weight", ())), sets.width, 0.0)
    missing = one.state_dict().keys() - tensors.keys()
    if missing:
        raise ModelError(f"the prefix lacks {min(missing)}", "restore the run or train it again", str(where))
    return one
