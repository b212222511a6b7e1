"""LoRA: a low-rank update beside each linear layer, W + (alpha / r) B A."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn


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
        lora_plus: float | None = Field(
            None, gt=0, description="learning rate of B over that of A, usually 16 (LoRA+, arXiv:2402.12354)"
        )

    summary = "a low-rank update beside each linear layer"
    paper = "Hu et al. 2021, arXiv:2106.09685"
    saves = "adapter in peft's format"
    merges: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        if self.config.lora_plus:
            return 5e-5
        if family == "encoder":
            return 5e-4
        return 1e-3 if parameters < 500_000_000 else 2e-4

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from peft import LoraConfig

        from tunery.models import fast_lora, peft_bridge

        config = LoraConfig(
            r=self.config.r,
            lora_alpha=self.config.alpha or 2 * self.config.r,
            lora_dropout=self.config.dropout,
            target_modules=self._targets(model),
            use_rslora=self.config.rslora,
            use_dora=self.config.dora,
            modules_to_save=list(head) or None,
            fan_in_fan_out=False,
            task_type=_task_type(model),
        )
        peft_bridge.attach(model, config)
        fast_lora.install(model)

    def _targets(self, model: nn.Module) -> list[str]:
        from tunery.models import sites

        names = sites.linear_names(model)
        if self.config.targets != "all-linear":
            wanted = self.config.targets
            names = [n for n in names if any(n == w or n.endswith("." + w) for w in wanted)]
        if not names:
            known = sorted({n.rsplit(".", 1)[-1] for n in sites.linear_names(model)})
            raise ConfigError(f"no layer matches {self.config.targets}", f"known: {', '.join(known)}", "method.targets")
        return sites.short_targets(model, names)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not self.config.lora_plus:
            return [{"named": named, "lr_scale": 1.0}]
        fast = [(name, p) for name, p in named if "lora_B" in name]
        slow = [(name, p) for name, p in named if "lora_B" not in name]
        return [{"named": slow, "lr_scale": 1.0}, {"named": fast, "lr_scale": self.config.lora_plus}]

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import peft_bridge

        peft_bridge.save(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import fast_lora, peft_bridge

        peft_bridge.load(model, folder, name)
        fast_lora.install(model)  # the same rounding as in training

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import peft_bridge

        peft_bridge.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        from tunery.models import peft_bridge

        peft_bridge.merge(model)
        return None


def _task_type(model: nn.Module) -> str | None:
    """Peft's name for what plain peft is to build around the base; it decides nothing here."""
    name = type(model).__name__
    endings = {"ForSequenceClassification": "SEQ_CLS", "ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM"}
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), None)
