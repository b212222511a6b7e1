"""Prefix-Tuning: trained keys and values in front of every self-attention layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Method, Strict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tunery.protocols import Task


LENGTH = 20


class PrefixTuning(Method):
    """P-Tuning v2 (Liu et al. 2022, arXiv:2110.07602) as it stands, Li & Liang's original with ``projection``.

    Positions of the text are those it has without the prefix. In encoder-decoder models the encoder's and the
    decoder's self-attention get a prefix, and the cross-attention with ``cross_attention``.
    """

    class Config(Strict):
        name: Literal["prefix"] = "prefix"
        length: int | None = Field(
            None, ge=1, description="vectors in front of each layer; default 20, with a text as many as it has tokens"
        )
        projection: bool = Field(False, description="train an MLP over one embedding, from which all vectors come")
        projection_hidden: int = Field(512, ge=1, description="hidden size of the projection")
        init: Literal["random", "text"] = Field(
            "random", description="keys and values of what the base reads: tokens drawn at random, or a text"
        )
        text: str = Field("", description="what init=text reads; repeated or cut to length if that is given")
        dropout: float = Field(0.0, ge=0, lt=1, description="on the vectors")
        cross_attention: bool = Field(
            False, description="encoder-decoder: vectors in front of the encoder's output too, as in the paper's BART"
        )

    summary = "trained keys and values in front of every attention layer"
    paper = "Li & Liang 2021, arXiv:2101.00190"
    saves = (
        "vectors (or the projection that makes them) and head, in tunery's own format; for language models like "
        "Llama, Mistral and Qwen without projection also in peft's, in the folder peft. GPT-2, encoders and T5 read "
        "the text at other positions under peft's prefix, so no such file would compute the same"
    )
    merges: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._ids: list[int] = []

    def prepare(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        super().prepare(task, tokenizer)
        if (self.config.init == "text") != bool(self.config.text.strip()):
            raise ConfigError("init=text and a text belong together", "set both or neither", "method.text")
        if self.config.init == "text":
            ids = tokenizer(self.config.text, add_special_tokens=False)["input_ids"]
            if not ids:
                raise ConfigError("the tokenizer finds no token in this text", "choose another one", "method.text")
            length = self.config.length or len(ids)
            self._ids = (ids * -(-length // len(ids)))[:length]

    def default_lr(self, parameters: int, family: str) -> float:
        if self.config.projection:
            return 5e-4
        return 1e-2 if family == "encoder" else 5e-3

    def refuses(self, task: object, model: nn.Module) -> str | None:
        from tunery.models import prefix

        return prefix.refusal(model, len(self._ids) or self.config.length or LENGTH)

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from tunery.models import prefix

        prefix.attach(
            model,
            head,
            self._ids or self.config.length or LENGTH,
            projection=self.config.projection_hidden if self.config.projection else 0,
            dropout=self.config.dropout,
            cross=self.config.cross_attention,
        )

    def train_state(self, model: nn.Module) -> dict[str, Tensor]:
        from tunery.models import prefix

        return prefix.frozen(model)

    def load_train_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        from tunery.models import weights

        weights.load_into(model, state, Path("checkpoint"))

    def carried(self, model: nn.Module, source: nn.Module) -> dict[str, Tensor]:
        from tunery.models import prefix

        return prefix.frozen(source)  # what was loaded is frozen, all of it

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import prefix, prefix_peft

        prefix.save(model, folder)
        if prefix_peft.fits(model):
            prefix_peft.save(model, folder / "peft")

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import prefix

        prefix.load(model, folder, head, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import prefix

        prefix.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        return "a prefix is read, no weight of the base can hold it; use method=lora where merging is needed"
