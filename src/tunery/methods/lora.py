"""LoRA: a low-rank update beside each linear layer, W + (alpha / r) B A."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn


class Lora(Method):
    """From peft, with adapters in the dtype of the base and fp32 master copies in the optimizer."""

    class Config(Strict):
        name: Literal["lora"] = "lora"
        r: int = Field(8, ge=1, description="rank of the update")
        alpha: float | None = Field(None, gt=0, description="scale: the update is multiplied by alpha / r; default 2 r")
        dropout: float = Field(0.0, ge=0, lt=1, description="on the input of the update")
        targets: Literal["all-linear"] | list[str] = Field(
            "all-linear", description="linear layers by the end of their names: [q_proj, v_proj]"
        )
        rslora: bool = Field(False, description="scale by alpha / sqrt(r) (arXiv:2312.03732)")
        dora: bool = Field(False, description="train magnitude and direction apart (arXiv:2402.09353)")
        init: Literal["default", "gaussian", "pissa"] = Field(
            "default",
            description="where A starts: uniform, Gaussian, or A and B from the weights' largest singular values "
            "(PiSSA, arXiv:2404.02948)",
        )
        lora_plus: float | None = Field(
            None, gt=0, description="learning rate of B over that of A, usually 16 (LoRA+, arXiv:2402.12354)"
        )

    summary = "a low-rank update beside each linear layer"
    paper = "Hu et al. 2021, arXiv:2106.09685"
    saves = "adapter in peft's format"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        if self.config.lora_plus:
            return 5e-5
        if self.config.init == "pissa":  # A and B start large
            return 2e-4 if parameters < 500_000_000 else 2e-5
        if family == "encoder":
            return 5e-4
        if parameters < 500_000_000:
            return 1e-3
        return 2e-4 if parameters < 20_000_000_000 else 1e-4

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import quantise

        if self.config.dora and quantise.kind(model) == "int8":
            return "peft's DoRA loses the scales of int8 weights; use model.quantise=nf4 or method.dora=false"
        if self.config.init != "pissa":
            return None
        if quantise.kind(model):
            return "PiSSA gains nothing on weights that are quantised already; use method.init=default"
        if self.config.dora:
            return "PiSSA and DoRA both take the weights apart; use method.dora=false or method.init=default"
        if self.config.dropout:
            return "dropout on the input of PiSSA's update would drop parts of the base; use method.dropout=0"
        return None

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from peft import LoraConfig

        from tunery.models import fast_block, fast_lora, peft_bridge, pissa, sites

        config = LoraConfig(
            r=self.config.r,
            lora_alpha=self.config.alpha or 2 * self.config.r,
            lora_dropout=self.config.dropout,
            target_modules=sites.lora_targets(model, self.config.targets),
            use_rslora=self.config.rslora,
            use_dora=self.config.dora,
            init_lora_weights="gaussian" if self.config.init == "gaussian" else True,
            modules_to_save=list(head) or None,
            fan_in_fan_out=False,
            task_type=peft_bridge.task_type(model),
        )
        peft_bridge.attach(model, config)
        if self.config.init == "pissa":
            pissa.install(model)
        fast_lora.install(model)
        fast_block.install(model)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not self.config.lora_plus:
            return [{"named": named, "lr_scale": 1.0}]
        fast = [(name, p) for name, p in named if "lora_B" in name]
        slow = [(name, p) for name, p in named if "lora_B" not in name]
        return [{"named": slow, "lr_scale": 1.0}, {"named": fast, "lr_scale": self.config.lora_plus}]

    def train_state(self, model: nn.Module) -> dict[str, Tensor]:
        from tunery.models import pissa

        return pissa.state(model)

    def load_train_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        from tunery.models import pissa

        pissa.load_state(model, state)

    def carried(self, model: nn.Module, source: nn.Module) -> dict[str, Tensor]:
        from tunery.models import pissa

        return pissa.halves_of(model, source)

    def scaled(self) -> tuple[str, ...]:
        # B alone scales the update; PiSSA's update is a difference to where both began
        return ("",) if self.config.init == "pissa" else ("lora_B", "lora_magnitude_vector")

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import peft_bridge, pissa

        if pissa.installed(model):
            pissa.save(model, folder)
        else:
            peft_bridge.save(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import fast_block, fast_lora, peft_bridge

        peft_bridge.load(model, folder, name)
        fast_lora.install(model)  # the same rounding as in training
        fast_block.install(model)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import peft_bridge

        peft_bridge.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        from tunery.models import peft_bridge

        peft_bridge.merge(model)
        return None

