"""What a method must offer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tunery.errors import ConfigError
from tunery.protocols.plugin import Plugin, Strict
from tunery.protocols.task import Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Method(Plugin):
    """Which parameters are trained and how they attach. Everything happens in place: after ``attach`` the
    same model object computes the tuned function, so that nobody else needs to know the method.
    """

    class Config(Strict):
        name: str = ""

    paper: ClassVar[str] = ""
    saves: ClassVar[str] = ""
    """What is in the run's ``model/`` folder."""
    merges: ClassVar[bool] = False
    joins_rows: ClassVar[bool] = False
    """Whether what it adds looks at one token at a time, so that rows may lie end to end."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        """Called once before rows are encoded and before ``attach`` or ``load``: a method that learns soft tokens
        looks into the task's template for them, or tells the task where to put some. Raises ConfigError.
        """
        if task.soft_tokens(tokenizer):
            raise ConfigError(
                f"the template has soft tokens, and method {self.name} learns none",
                "use method=p_tuning or prompt, or take [soft:n] out of it",
                "task.template",
            )

    def default_lr(self, parameters: int, family: str) -> float:
        """A starting learning rate. ``parameters``: of the base; ``family``: decoder, encoder or encoder-decoder."""
        raise NotImplementedError

    def refuses(self, task: Task, model: nn.Module) -> str | None:
        """Why this cannot work on that model and task, with the alternative; or None."""
        return None

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        """Freeze the base, add or free the trained parts. ``head``: new modules, trained by every method."""
        raise NotImplementedError

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Trained parameters as optimizer groups: ``named`` (list of (name, parameter)), ``lr_scale``."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [{"named": named, "lr_scale": 1.0}]

    def begin(self, model: nn.Module, total_steps: int) -> None:
        """Called once after ``attach``, before the first step or the checkpoint to resume from (schedules)."""

    def before_step(self, model: nn.Module, step: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Called before each optimizer step; ``step`` counts from 1.

        Args:
            weights: by parameter name, the optimizer's fp32 copy and its gradient: that of the mean loss over all
                targets of the step, before clipping. A term of the method's own is added to it in place.
        """

    def after_step(self, model: nn.Module, step: int, weights: Mapping[str, Tensor]) -> None:
        """Called after each optimizer step.

        Args:
            weights: by parameter name, the optimizer's fp32 copies; what is changed in the model changes here too.
        """

    def complete(self, step: int) -> bool:
        """Whether the weights after this step may be those that the run keeps (a rank schedule must be over)."""
        return True

    def train_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What resuming needs beside the trained parameters and the optimizer's state."""
        return {}

    def load_train_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``train_state``."""

    def carried(self, model: nn.Module, source: nn.Module) -> dict[str, Tensor]:
        """For a run that goes on from another: values for ``model``, fresh from ``attach``, out of ``source``, as
        ``load`` made it, by name of a parameter or buffer of ``model``. Trained parameters that have the same name in
        both need not be among them.
        """
        return {}

    def scaled(self) -> tuple[str, ...]:
        """Parts of names: the trained parameters that are moved in a straight line from where they started (the bare
        base, or next to it) to where training took them, when a run scales what it has learnt. ("",) means all of
        them, () that this method has no such scale.
        """
        return ("",)

    def save(self, model: nn.Module, folder: Path) -> None:
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        """Attach what ``save`` wrote to a base model fresh from disk."""
        raise NotImplementedError

    def activate(self, model: nn.Module, name: str | None) -> None:
        """Choose among several loaded adapters; None switches back to the bare base."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> str | None:
        """Fold the trained parts into the base weights; returns a reason instead if that is impossible."""
        return "this method cannot be merged into the base weights"
