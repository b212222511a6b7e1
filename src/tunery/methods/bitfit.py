"""BitFit: only the biases are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn

FILE = "weights.safetensors"


class BitFit(Method):
    """A thousandth of the parameters, and no cost at inference: the tuned biases take the place of the old ones.

    Llama, T5 and their like have no biases; with ``norms`` their norm weights are trained instead.
    """

    class Config(Strict):
        name: Literal["bitfit"] = "bitfit"
        norms: bool = Field(False, description="train the weights of the norms too, as models without biases need")

    summary = "train the biases only"
    paper = "Ben Zaken et al. 2021, arXiv:2106.10199"
    saves = "the trained parameters only"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        return 1e-3 if family == "encoder" or parameters < 500_000_000 else 5e-4

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import sites

        layers = tuple(f"{stack}." for stack, _ in sites.stacks(model))
        if any(name.startswith(layers) for name in self._names(model)):
            return None
        if self.config.norms:
            return f"{type(model).__name__} has neither biases nor norm weights in its layers; use method=ia3 or lora"
        return (
            f"{type(model).__name__} has no biases in its layers; "
            "set method.norms=true to train its norm weights, or use method=ia3 or lora"
        )

    def _names(self, model: nn.Module) -> set[str]:
        names = {name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"}
        if self.config.norms:
            norms = [name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()]
            names |= {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in norms}
        return names

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from tunery.models import swap, weights

        weights.freeze(model)
        names = self._names(model)
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.requires_grad_(True)
        weights.train_modules(model, head)
        swap.remember(model, weights.trainable(model))

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import weights

        weights.save(weights.trainable(model), folder / FILE)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import swap, weights

        swap.load(model, weights.read(folder / FILE), folder / FILE, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import swap

        swap.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        from tunery.models import swap

        swap.forget(model)
        return None  # the weights already are the tuned ones
