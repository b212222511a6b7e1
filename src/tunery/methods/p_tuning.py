"""P-Tuning v1: soft tokens anywhere in the template, made by a small network that is learnt with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tunery.protocols import Method, Position, Strict, Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TOKENS = 10


class PTuning(Method):
    """The network is part of what is saved and computes the vectors in training and afterwards alike, so that a run
    resumes exactly.
    """

    class Config(Strict):
        name: Literal["p_tuning"] = "p_tuning"
        tokens: int | None = Field(
            None, ge=1, description=f"soft tokens; default: those of [soft:n] in the template, else {TOKENS}"
        )
        encoder: Literal["identity", "mlp", "lstm"] = Field(
            "lstm", description="what makes the vectors: nothing, an MLP, or a two-layer bidirectional LSTM and an MLP"
        )
        hidden: int | None = Field(None, ge=1, description="size inside the encoder; default: that of the embeddings")
        dropout: float = Field(0.0, ge=0, lt=1, description="inside the encoder")
        position: Position | None = Field(
            None,
            description="before the input (default), after it, or between it and the answer; "
            "not where the template has [soft:n]",
        )

    summary = "learn vectors anywhere in the template through a small network"
    paper = "Liu et al. 2021, arXiv:2103.10385"
    saves = "the network and its inputs, and the vectors in peft's format where a decoder has them in front"

    def prepare(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        from tunery.data import soft

        self.tokens = soft.plan(task, tokenizer, self.config.tokens, self.config.position, TOKENS)
        self.in_front = soft.in_front(task, tokenizer)

    def default_lr(self, parameters: int, family: str) -> float:
        return 1e-2 if self.config.encoder == "identity" else 1e-3

    def _source(self, model: nn.Module) -> nn.Module:
        """What makes the vectors, with new weights."""
        import torch

        from tunery.models import soft

        size, deviation = soft.embed(model, [0]).shape[1], soft.deviation(model)
        kind, config = self.config.encoder, self.config
        if kind == "identity":
            return soft.Vectors(torch.randn(self.tokens, size) * deviation)
        return soft.PromptEncoder(self.tokens, size, kind, config.hidden or size, config.dropout, deviation)

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from tunery.models import soft, weights

        weights.freeze(model)
        weights.train_modules(model, head)
        soft.install(model, self._source(model), head)

    def scaled(self) -> tuple[str, ...]:
        return ()  # a fraction of a vector is another word, not a weaker one

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import soft

        soft.save(model, folder, self.in_front)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        from tunery.models import soft

        soft.load(model, self._source(model), folder, head, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import soft

        soft.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        return "soft tokens are inputs: there are no weights to merge them into"
