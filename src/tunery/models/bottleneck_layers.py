"""The modules of bottleneck adapters: one adapter at one place, and the place that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tunery.protocols import Strict

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Settings(Strict):
    """What an adapter is; stored with its weights."""

    placement: Literal["houlsby", "pfeiffer", "parallel"]
    reduction: int = Field(ge=1)
    activation: Literal["relu", "gelu", "silu", "tanh"]
    scale: Annotated[float, Field(gt=0)] | Literal["learned"]
    dropout: float = Field(0.0, ge=0, lt=1)
    layers: list[int] | None = None
    """Numbers of the layers in each stack, negative ones from its end; None: all."""


class Bottleneck(nn.Module):
    """One adapter at one place: [..., hidden] → what is added, [..., hidden]."""

    def __init__(self, hidden: int, settings: Settings) -> None:
        super().__init__()
        width = max(hidden // settings.reduction, 1)
        self.parallel = settings.placement == "parallel"
        self.activation = ACTIVATIONS[settings.activation]
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.up = nn.Linear(width, hidden)
        self.scale: Any = nn.Parameter(torch.ones(())) if settings.scale == "learned" else settings.scale
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.dropout(self.activation(self.down(x.to(self.down.weight.dtype))))
        return F.linear(narrow * self.scale, self.up.weight, self.up.bias * self.scale)  # scaled where it is narrow


@dataclass(slots=True)
class Plan:
    """Which adapters act, in this order, by number and weight; shared by all places of a model."""

    parts: tuple[tuple[str, float], ...] = ()
    stacked: bool = True


class Place(nn.ModuleDict):
    """All adapters at one place of one layer, by number."""

    def __init__(self, plan: Plan, reads: nn.Module, writes: nn.Module) -> None:
        super().__init__()
        self.plan = plan
        self.read: Tensor | None = None
        self.hooks = [reads.register_forward_pre_hook(self._note), writes.register_forward_hook(self._change)]

    def _acting(self) -> list[tuple[Any, float]]:
        return [(self[number], weight) for number, weight in self.plan.parts if number in self]

    def _note(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if any(adapter.parallel for adapter, _ in self._acting()):
            self.read = args[0]

    def _change(self, _module: nn.Module, _args: Any, h: Tensor) -> Tensor:
        acting = self._acting()
        x, self.read = self.read, None
        if self.plan.stacked:
            for adapter, _ in acting:
                h = h + adapter(x if adapter.parallel else h).to(h.dtype)
            return h
        changes = [weight * adapter(x if adapter.parallel else h) for adapter, weight in acting]
        return h + sum(changes).to(h.dtype) if changes else h
