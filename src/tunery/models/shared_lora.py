"""One batch, an adapter for each row: plain LoRA adapters over one base, computed together.

A linear layer computes y = x W' + s ((x A') * m) B', where A [ranks, in] and B [out, ranks] are the matrices of all
adapters in the batch, side by side, and m [rows, ranks] is 1 in a row's own ranks and 0 elsewhere. So a batch costs one
pass through the base and two narrow products, however many adapters are in it. (Sheng et al. 2023, arXiv:2311.03285,
do the same with gathered kernels.) Rows of no adapter compute the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunery.models import peft_bridge

PATIENCE = 256
"""Steps after which adapters that no row has are left out of the product."""


@dataclass(frozen=True, slots=True)
class Part:
    """An adapter's matrices in one layer: a [rank, in], b [out, rank]."""

    a: Tensor
    b: Tensor
    scale: float


def parts(model: nn.Module) -> dict[str, Part] | None:
    """The adapter of a model by the names of its layers; None unless it is plain LoRA and nothing else."""
    from peft.tuners.lora import LoraLayer

    try:
        config = peft_bridge.config(model)
    except KeyError:
        return None
    plain = {"bias": "none", "modules_to_save": None, "use_dora": False, "lora_bias": False}
    plain |= dict.fromkeys(("trainable_token_indices", "target_parameters", "layer_replication", "arrow_config"))
    if config.peft_type != "LORA" or any((getattr(config, k, None) or None) != (v or None) for k, v in plain.items()):
        return None
    found: dict[str, Part] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        extra = [*layer.lora_embedding_A, *getattr(layer, "lora_variant", {})]
        if extra or list(layer.lora_A) != ["default"] or layer.merged or layer.lora_A["default"].bias is not None:
            return None
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found[name] = Part(a.detach(), b.detach(), float(layer.scaling["default"]))
    return found or None


class _RowLora(nn.Module):
    """A linear layer and the matrices beside it."""

    def __init__(self, base_layer: nn.Module, state: SharedLora) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.a: Tensor | None = None
        """[ranks, in]; None: no adapter in the batch has this layer."""
        self.b: Tensor | None = None
        """[ranks, out]."""
        self.scale = 1.0
        object.__setattr__(self, "state", state)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x)
        state: SharedLora = self.state  # type: ignore[assignment]
        if self.a is None or self.b is None or not state.active:
            return out
        narrow = nn.functional.linear(x.to(self.a.dtype), self.a)  # [rows, length, ranks]
        if state.mask is not None:
            narrow = narrow * state.mask
        flat = out.view(-1, out.shape[-1])
        flat.addmm_(narrow.view(len(flat), -1).to(out.dtype), self.b.to(out.dtype), alpha=self.scale)
        return out


class SharedLora:
    """Adapters over one model, which is changed in place.

    Call ``arrange`` before each forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.adapters: dict[str, dict[str, Part]] = {}
        self.layers: dict[str, _RowLora] = {}
        self.mask: Tensor | None = None
        """[rows, 1, ranks]; None: all rows have the one adapter that there is."""
        self.active = False
        """Whether any row has an adapter."""
        self._places: dict[str, slice] = {}
        """Ranks of each adapter in the product."""
        self._rows: tuple[str | None, ...] = ()
        self._idle = 0

    def add(self, name: str, adapter: dict[str, Part]) -> None:
        for path in adapter:
            if path not in self.layers:
                self.layers[path] = layer = _RowLora(self.model.get_submodule(path), self)
                self.model.set_submodule(path, layer.eval())
        self.adapters[name] = adapter

    def remove(self, name: str) -> None:
        del self.adapters[name]
        self._build([other for other in self._places if other != name])

    def arrange(self, rows: Sequence[str | None]) -> None:
        """Say which adapter each row of the next batch has; None: the base as it is."""
        names = tuple(rows)
        wanted = {name for name in names if name is not None}
        self._idle = self._idle + 1 if len(wanted) < len(self._places) else 0
        if self._idle > PATIENCE:
            self._build(sorted(wanted))
        elif not wanted <= self._places.keys():
            self._build([*self._places, *sorted(wanted - self._places.keys())])
        elif names == self._rows:
            return
        self._rows, self.active = names, bool(wanted)
        if len(self._places) == 1 and None not in names:
            self.mask = None
            return
        ranks = max((place.stop for place in self._places.values()), default=0)
        mask = torch.zeros(len(names), 1, ranks)
        for row, name in enumerate(names):
            if name is not None:
                mask[row, 0, self._places[name]] = 1
        some = next((layer.a for layer in self.layers.values() if layer.a is not None), None)
        self.mask = mask if some is None else mask.to(some.device, some.dtype)

    def _build(self, names: Sequence[str]) -> None:
        """Put the matrices of these adapters side by side."""
        self._idle, self._rows = 0, ()
        ranks = {name: max(len(part.a) for part in self.adapters[name].values()) for name in names}
        self._places, end = {}, 0
        for name, rank in ranks.items():
            self._places[name] = slice(end, end + rank)
            end += rank
        for path, layer in self.layers.items():
            found = {name: self.adapters[name][path] for name in names if path in self.adapters[name]}
            layer.a = layer.b = None
            if not found:
                continue
            first = next(iter(found.values()))
            layer.scale = first.scale
            layer.a = first.a.new_zeros(end, first.a.shape[1])
            layer.b = first.b.new_zeros(end, len(first.b))
            for name, part in found.items():
                place = slice(self._places[name].start, self._places[name].start + len(part.a))
                layer.a[place] = part.a
                # one scale for all, so that equal ones are applied as in the adapter alone
                layer.b[place] = part.b.t() if part.scale == first.scale else part.b.t() * (part.scale / first.scale)
