"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tunery.errors import ModelError
from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from torch import nn


class Full(Method):
    """The strongest and most expensive method; the whole model is saved."""

    class Config(Strict):
        name: Literal["full"] = "full"

    summary = "train every parameter"
    paper = "Howard & Ruder 2018, arXiv:1801.06146"
    saves = "the whole model, as plain transformers loads it"
    merges: ClassVar[bool] = True
    joins_rows: ClassVar[bool] = True

    def default_lr(self, parameters: int, family: str) -> float:
        return 5e-5 if family == "encoder" else 2e-5

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import quantise

        if quantise.is_quantised(model):
            return "quantised weights cannot be trained; use method=lora on a quantised base"
        return None

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        model.requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        from tunery.models import weights

        if hasattr(model, "save_pretrained"):
            # under the names that it has here, which ``load`` looks for: old files name some weights otherwise
            model.save_pretrained(folder, save_original_format=False)
        else:
            weights.save(model.state_dict(), folder / "model.safetensors")

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import weights

        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise ModelError("no weights in the run", "restore the run or train it again", str(folder))
        for file in files:
            weights.load_into(model, weights.read(file), file)

    def activate(self, model: nn.Module, name: str | None) -> None:
        if name is None:
            raise ModelError("full fine-tuning replaced the base weights", "load the base model beside it")

    def merge(self, model: nn.Module) -> str | None:
        return None  # the weights already are the tuned ones
