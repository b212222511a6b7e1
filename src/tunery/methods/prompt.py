"""Prompt Tuning: a few vectors in the input are learnt, the model stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Method, Position, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

TOKENS = 20


class Prompt(Method):
    """How the vectors begin and how fast they are learnt decides much: begin with real words."""

    class Config(Strict):
        name: Literal["prompt"] = "prompt"
        tokens: int | None = Field(
            None, ge=1, description=f"soft tokens; default: the template's [soft:n], those of text, or {TOKENS}"
        )
        init: Literal["random", "vocabulary", "text"] | None = Field(
            None,
            description="how the vectors begin: random, as tokens drawn from the vocabulary (default), or as text",
        )
        text: str | None = Field(
            None, description="text to begin with; cut, or repeated, to as many tokens as there are soft ones"
        )
        position: Position | None = Field(
            None,
            description="before the input (default), after it, or between it and the answer; "
            "not where the template has [soft:n]",
        )

    summary = "learn vectors in the input, anywhere in it"
    paper = "Lester et al. 2021, arXiv:2104.08691"
    saves = "the vectors, in peft's format where a decoder has them in front of everything"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.init = config.init or ("text" if config.text is not None else "vocabulary")
        if (self.init == "text") != (config.text is not None):
            problem = "init=text needs a text" if config.text is None else f"init={config.init} takes no text"
            raise ConfigError(problem, "set method.text='...' and leave method.init out", "method.init")

    def prepare(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        from tunery.data import soft

        words = tokenizer(self.config.text or "", add_special_tokens=False)["input_ids"]
        if self.init == "text" and not words:
            raise ConfigError("the text has no tokens", "write some words", "method.text")
        self.tokens = soft.plan(task, tokenizer, self.config.tokens, self.config.position, len(words) or TOKENS)
        self.in_front = soft.in_front(task, tokenizer)
        self.words = [words[i % len(words)] for i in range(self.tokens)] if words else []
        self.vocabulary = sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))

    def default_lr(self, parameters: int, family: str) -> float:
        return 3e-2 if family == "encoder" else 1e-2

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        from tunery.models import soft, weights

        weights.freeze(model)
        weights.train_modules(model, head)
        soft.install(model, soft.Vectors(self._start(model)), head)

    def _start(self, model: nn.Module) -> Tensor:
        """[tokens, size]"""
        import torch

        from tunery.models import soft

        if self.init == "random":
            size = soft.embed(model, [0]).shape[1]
            return torch.randn(self.tokens, size) * soft.deviation(model)
        if self.init == "text":
            return soft.embed(model, self.words)
        drawn = torch.randperm(len(self.vocabulary)).tolist()
        return soft.embed(model, [self.vocabulary[drawn[i % len(drawn)]] for i in range(self.tokens)])

    def scaled(self) -> tuple[str, ...]:
        return ()  # a fraction of a vector is another word, not a weaker one

    def save(self, model: nn.Module, folder: Path) -> None:
        from tunery.models import soft

        soft.save(model, folder, self.in_front)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        import torch

        from tunery.models import soft

        size = soft.embed(model, [0]).shape[1]
        soft.load(model, soft.Vectors(torch.zeros(self.tokens, size)), folder, head, name)

    def activate(self, model: nn.Module, name: str | None) -> None:
        from tunery.models import soft

        soft.activate(model, name)

    def merge(self, model: nn.Module) -> str | None:
        return "soft tokens are inputs: there are no weights to merge them into"
