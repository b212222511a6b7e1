"""Partial fine-tuning: the head only, the last layers, everything but the embeddings, or chosen parameters."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunery.errors import ConfigError, ModelError
from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn

FILE = "weights.safetensors"


class Freeze(Method):
    """Autograd stops by itself at the first trained layer, so a short tail costs little more than inference."""

    class Config(Strict):
        name: Literal["freeze"] = "freeze"
        layers: int | Literal["all"] = Field(
            2, description="last layers to train; 0: the head only; all: everything but the embeddings"
        )
        patterns: list[str] = Field(
            [], description="parameter names to train instead, with wildcards: ['*.layer.5.*', '*LayerNorm*']"
        )

    summary = "train the head and the last layers, keep the rest as it is"
    paper = "Lee et al. 2019, arXiv:1911.03090"
    saves = "the trained parameters only"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        if self.config.layers == 0 and not self.config.patterns:
            return 1e-3
        return 1e-4 if family == "encoder" else 2e-5

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import quantise

        if quantise.is_quantised(model):
            return "quantised weights cannot be trained; use method=lora on a quantised base"
        return None

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from tunery.models import sites, weights

        weights.freeze(model)
        names = self._patterns(model) if self.config.patterns else self._tail(model)
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.requires_grad_(True)
        output = sites.output_head(model)
        weights.train_modules(model, head or ((output,) if output and not names else ()))

    def _patterns(self, model: nn.Module) -> set[str]:
        every = [name for name, _ in model.named_parameters()]
        names = {name for name in every if any(fnmatch.fnmatch(name, p) for p in self.config.patterns)}
        if not names:
            raise ConfigError(
                f"no parameter matches {self.config.patterns}",
                f"names look like {every[len(every) // 2]}",
                "method.patterns",
            )
        return names

    def _tail(self, model: nn.Module) -> set[str]:
        """The last layers, and what stands after the stack (final norm, pooler)."""
        from tunery.models import sites

        if self.config.layers == 0:
            return set()
        every = {name for name, _ in model.named_parameters()}
        names = every - sites.embedding_names(model)
        for stack, layers in sites.stacks(model):
            frozen = 0 if self.config.layers == "all" else max(len(layers) - self.config.layers, 0)
            for i in range(frozen):
                names -= {name for name in names if name.startswith(f"{stack}.{i}.")}
        return names

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import weights

        weights.save(weights.trainable(model), folder / FILE)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import weights

        weights.load_into(model, weights.read(folder / FILE), folder / FILE)

    def activate(self, model: nn.Module, name: str | None) -> None:
        if name is None:
            raise ModelError("partial fine-tuning replaced base weights", "load the base model beside it")

    def merge(self, model: nn.Module) -> str | None:
        return None  # the weights already are the tuned ones
