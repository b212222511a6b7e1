"""Bottleneck adapters: small networks in the residual connections of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn

DEFAULTS: dict[str, dict[str, Any]] = {
    "houlsby": {"reduction": 16, "activation": "gelu", "scale": 1.0},
    "pfeiffer": {"reduction": 16, "activation": "relu", "scale": 1.0},
    "parallel": {"reduction": 2, "activation": "relu", "scale": 4.0},
}
"""Of the papers."""


class Adapter(Method):
    """Houlsby et al. 2019: after attention (cross-attention too) and after the feed-forward; Pfeiffer et al. 2020,
    arXiv:2005.00247: after the feed-forward; He et al. 2022, arXiv:2110.04366: beside the feed-forward. All of them
    before the residual sum; the norms stay frozen. Several adapters over one base are switched, stacked and averaged.
    """

    class Config(Strict):
        name: Literal["adapter"] = "adapter"
        placement: Literal["houlsby", "pfeiffer", "parallel"] = Field(
            "houlsby", description="after attention and feed-forward, after the feed-forward, or beside it"
        )
        reduction: int | None = Field(None, ge=1, description="hidden size over width; default 16, parallel 2")
        activation: Literal["relu", "gelu", "silu", "tanh"] | None = Field(
            None, description="non-linearity; default relu, houlsby gelu"
        )
        scale: Annotated[float, Field(gt=0)] | Literal["learned"] | None = Field(
            None, description="factor of what is added, or learned (from 1); default 1, parallel 4"
        )
        dropout: float = Field(0.0, ge=0, lt=1, description="between the two projections")
        layers: list[int] | None = Field(
            None, description="numbers of the layers, from 0, negative ones from the end; default all"
        )

    summary = "small bottleneck networks inside each layer's residual connections"
    paper = "Houlsby et al. 2019, arXiv:1902.00751"
    saves = "adapter and head, in tunery's own format"
    merges: ClassVar[bool] = False
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        if parameters < 200_000_000:
            return 1e-3
        return 3e-4 if parameters < 1_000_000_000 else 1e-4

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import bottleneck

        return bottleneck.refusal(model)

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        self.add(model, head, "default")

    def add(self, model: nn.Module, head: tuple[str, ...], name: str) -> None:
        """One more adapter, new and active, to train; the others and the base are frozen."""
        from tunery.models import bottleneck, bottleneck_layers

        given = self.config.model_dump(exclude={"name"}, exclude_none=True)
        settings = bottleneck_layers.Settings.model_validate({**DEFAULTS[self.config.placement], **given})
        bottleneck.add(model, settings, head, name)

    def scaled(self) -> tuple[str, ...]:
        return (".up.",)

    def save(self, model: nn.Module, folder: Path, name: str | None = None) -> None:
        """``name``: which one; it may be left out while one acts alone."""
        from tunery.models import bottleneck

        bottleneck.save(model, folder, name)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import bottleneck

        bottleneck.load(model, folder, head, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import bottleneck

        bottleneck.activate(model, name)

    def stack(self, model: nn.Module, names: Sequence[str]) -> None:
        """Several adapters one after the other, with the head of the last."""
        from tunery.models import bottleneck

        bottleneck.stack(model, names)

    def average(self, model: nn.Module, names: Sequence[str], weights: Sequence[float] | None = None) -> None:
        """The mean of several adapters' outputs, and of their heads' weights."""
        from tunery.models import bottleneck

        bottleneck.average(model, names, weights)

    def delete(self, model: nn.Module, name: str) -> None:
        from tunery.models import bottleneck

        bottleneck.delete(model, name)

    def merge(self, model: nn.Module) -> str | None:
        return "an adapter is not linear, no weight of the base can hold it; use method=lora where merging is needed"
