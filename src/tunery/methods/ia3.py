"""(IA)³: learnt vectors rescale keys, values and what goes into the second feed-forward layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn


class Ia3(Method):
    """From peft; ours are the places, which peft does not know for DistilBERT, ModernBERT and others.

    Where one layer makes queries, keys and values (GPT-2, ModernBERT), the queries are rescaled too, as in peft.
    """

    class Config(Strict):
        name: Literal["ia3"] = "ia3"
        targets: list[str] | None = Field(
            None, description="layers whose output is rescaled, by the end of their names; default: keys and values"
        )
        feedforward: list[str] | None = Field(
            None, description="layers whose input is rescaled; default: the feed-forward's second; []: none"
        )

    summary = "learnt vectors rescale keys, values and the feed-forward's inner activations"
    paper = "Liu et al. 2022, arXiv:2205.05638"
    saves = "adapter in peft's format"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        return 5e-3 if family == "encoder" or parameters < 500_000_000 else 3e-3

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from peft import IA3Config

        from tunery.models import peft_bridge, sites

        outputs = sites.matching(model, self.config.targets, sites.keys_and_values(model))
        inputs = sites.matching(model, self.config.feedforward, sites.down_projections(model))
        for key, found, wanted in (("targets", outputs, True), ("feedforward", inputs, self.config.feedforward != [])):
            if wanted and not found:
                known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in sites.linear_names(model)}))
                given = getattr(self.config, key)
                problem = f"no layer matches {given}" if given else f"{type(model).__name__}: unknown architecture"
                raise ConfigError(problem, f"name layers; there are: {known}", f"method.{key}")
        if both := set(outputs) & set(inputs):
            raise ConfigError(f"{min(both)} is in both lists", "leave it out of one", "method.feedforward")
        feedforward = sites.short_targets(model, inputs)
        config = IA3Config(
            target_modules=sites.short_targets(model, outputs) + feedforward,
            feedforward_modules=feedforward,
            modules_to_save=list(head) or None,
            task_type=peft_bridge.task_type(model),
        )
        peft_bridge.attach(model, config)

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import peft_bridge

        peft_bridge.save(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import peft_bridge

        peft_bridge.load(model, folder, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import peft_bridge

        peft_bridge.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        from tunery.models import peft_bridge

        peft_bridge.merge(model)
        return None
