"""AdaLoRA: low-rank updates that share out a budget of ranks among the layers while they train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn


class AdaLora(Method):
    """W + (alpha / init_r) B diag(E) A; ranks with little influence on the loss lose their entry of E.

    The layers are peft's; the budget is ours (``models/rank_budget.py``), because peft's needs its own loop.
    """

    class Config(Strict):
        name: Literal["adalora"] = "adalora"
        init_r: int = Field(12, ge=1, description="rank of each update at the beginning")
        target_r: int = Field(8, ge=1, description="average rank at the end")
        alpha: float | None = Field(
            None, gt=0, description="scale: the update is multiplied by alpha / init_r; default 2 init_r"
        )
        dropout: float = Field(0.0, ge=0, lt=1, description="on the input of the update")
        targets: Literal["all-linear"] | list[str] = Field(
            "all-linear", description="linear layers by the end of their names: [q_proj, v_proj]"
        )
        tinit: float = Field(0.1, ge=0, lt=1, description="share of the steps before ranks are taken away")
        tfinal: float = Field(0.3, ge=0, lt=1, description="share of the steps after the last rank was taken away")
        every: int = Field(1, ge=1, description="steps between two allocations of the budget")
        beta1: float = Field(0.85, gt=0, lt=1, description="smoothing of each weight's importance")
        beta2: float = Field(0.85, gt=0, lt=1, description="smoothing of that importance's uncertainty")
        orthogonal: float = Field(
            0.5, ge=0, description="weight of the penalty that keeps the rows of A and the columns of B orthonormal"
        )

        @model_validator(mode="after")
        def _fits(self) -> AdaLora.Config:
            if self.target_r > self.init_r:
                raise ValueError("target_r is larger than init_r")
            if self.tinit + self.tfinal >= 1:
                raise ValueError("tinit and tfinal leave no steps between them")
            return self

    summary = "low-rank updates that share out a budget of ranks"
    paper = "Zhang et al. 2023, arXiv:2303.10512"
    saves = "adapter in peft's format, without the ranks that were taken away"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._budget: Any = None
        self._last = 0

    def default_lr(self, parameters: int, family: str) -> float:
        if family == "encoder":
            return 1e-3
        return 2e-3 if parameters < 500_000_000 else 5e-4

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from peft import AdaLoraConfig

        from tunery.models import peft_bridge, sites

        config = AdaLoraConfig(
            init_r=self.config.init_r,
            target_r=self.config.target_r,
            lora_alpha=self.config.alpha or 2 * self.config.init_r,
            lora_dropout=self.config.dropout,
            target_modules=sites.lora_targets(model, self.config.targets),
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            orth_reg_weight=self.config.orthogonal,
            deltaT=self.config.every,
            total_step=1,  # ``begin`` knows it
            modules_to_save=list(head) or None,
            task_type=peft_bridge.task_type(model),
        )
        peft_bridge.attach(model, config)

    def begin(self, model: nn.Module, total_steps: int) -> None:
        from tunery.models import peft_bridge, rank_budget

        first = int(self.config.tinit * total_steps)
        self._last = total_steps - int(self.config.tfinal * total_steps)
        schedule = rank_budget.Schedule(first, self._last, self.config.every)
        betas = (self.config.beta1, self.config.beta2)
        self._budget = rank_budget.RankBudget(model, schedule, self.config.target_r, betas, self.config.orthogonal)
        peft_bridge.configure(model, total_step=total_steps, tinit=first, tfinal=total_steps - self._last)

    def before_step(self, model: nn.Module, step: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self._budget.before_step(step, weights)

    def after_step(self, model: nn.Module, step: int, weights: Mapping[str, Tensor]) -> None:
        self._budget.after_step(step, weights)

    def complete(self, step: int) -> bool:
        return step >= self._last

    def train_state(self, model: nn.Module) -> dict[str, Tensor]:
        return dict(self._budget.state())

    def load_train_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        self._budget.load_state(state)

    def scaled(self) -> tuple[str, ...]:
        return ("lora_E",)

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import peft_bridge, rank_budget

        peft_bridge.configure(model, rank_pattern=rank_budget.pattern(model))
        peft_bridge.save(model, folder)
        peft_bridge.configure(model, rank_pattern=None)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import peft_bridge, rank_budget

        peft_bridge.load(model, folder, name)
        rank_budget.widen(model, name, peft_bridge.config(model, name).rank_pattern)
        peft_bridge.configure(model, name, rank_pattern=None)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import peft_bridge

        peft_bridge.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        from tunery.models import peft_bridge

        peft_bridge.merge(model)
        return None
