"""Several models over one base in memory.

Each model is a module tree of its own, so that what a method adds, hooks or switches in one is never seen in another;
only the base's parameters are the same memory in all of them. Nothing writes into that memory: ``weights.put`` gives a
parameter its own when a run trained it, and ``weights.separate`` all of them before a merge.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from tunery.models import quantise, weights
from tunery.models.load import Base


class _Weights:
    """The memory of one base."""

    def __init__(self) -> None:
        self.templates: dict[str, tuple[nn.Module, tuple[str, ...], int]] = {}
        """By head: a tree that is only copied, its new modules, and the seed they were drawn from."""
        self.known: dict[tuple[torch.Size, torch.dtype], list[tuple[str, Tensor]]] = defaultdict(list)
        """Parameters by shape and dtype, with their names."""

    def adopt(self, model: nn.Module) -> None:
        """Let a model just read use the memory of those before it: a backbone without head is part of one with."""
        for name, parameter in model.named_parameters():
            if type(parameter) is not nn.Parameter:
                continue  # quantised weights are more than their bytes
            same = self.known[parameter.shape, parameter.dtype]
            for other, tensor in same:
                if (name.endswith(other) or other.endswith(name)) and torch.equal(tensor, parameter):
                    parameter.data = tensor
                    break
            else:
                same.append((name, parameter.data))


@dataclasses.dataclass(frozen=True)
class SharedBase(Base):
    """A base whose models share their weights' memory with all others made from it."""

    weights: _Weights = dataclasses.field(default_factory=_Weights)

    def load(self, kind: str, **config_changes: Any) -> tuple[nn.Module, tuple[str, ...]]:
        """As ``Base.load``; the files are read once for each kind of head."""
        key = f"{kind} {sorted(config_changes.items(), key=str)}"
        found = self.weights.templates.get(key)
        if found is None or (found[1] and found[2] != torch.initial_seed()):
            model, new = super().load(kind, **config_changes)
            self.weights.adopt(model)
            found = self.weights.templates[key] = (model, new, torch.initial_seed())
        return twin(found[0], found[1]), found[1]


def twin(model: nn.Module, new: tuple[str, ...] = ()) -> nn.Module:
    """A copy of a model that shares its parameters' memory, except those of the modules ``new``.

    A quantised layer is the same object in both: what its weights mean is spread over its attributes.
    """
    memo: dict[int, Any] = {id(layer): layer for layer in quantise.layers(model)}
    own = tuple(f"{name}." for name in new)
    for name, parameter in model.named_parameters():
        if type(parameter) is nn.Parameter and name not in new and not name.startswith(own):
            shared = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
            weights.share(shared)
            memo[id(parameter)] = shared
    return copy.deepcopy(model, memo)


class Bases:
    """Bases by content: equal files in one dtype, device and quantisation are in memory once, while they are used."""

    def __init__(self) -> None:
        self._weights: WeakValueDictionary[tuple[Any, ...], _Weights] = WeakValueDictionary()

    def share(self, base: Base) -> SharedBase:
        key = (base.hash(), base.dtype, str(base.device), base.quantised)
        found = self._weights.get(key)
        if found is None:
            found = self._weights[key] = _Weights()
        fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(Base)}
        return SharedBase(**fields, weights=found)
