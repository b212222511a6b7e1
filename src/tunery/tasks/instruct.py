"""Follow instructions: the answer to a question or the next turn of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import DataError
from tunery.protocols import IGNORE, Batch, Encoded, Example, Message, Position, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Instruct(Task):
    """Loss on the answers only, each answer's end-of-turn token included."""

    class Config(Strict):
        name: Literal["instruct"] = "instruct"
        template: str = Field("model", description="chat template: model (its own), a known name, or Jinja text")
        system: str | None = Field(None, description="system message put before every conversation without one")
        loss_on: Literal["answers", "last", "all"] = Field("answers", description="which tokens carry the loss")

    summary = "answer a question, follow an instruction, go on with a conversation"
    formats: ClassVar[tuple[str, ...]] = (
        *("chat", "alpaca", "qa", "pairs"),
        *("sharegpt", "preference", "transcripts"),
    )
    metrics: ClassVar[tuple[str, ...]] = (
        "loss",
        "perplexity",
        "contains",
        "exact_match",
        "rougeL",
        "rouge1",
        "rouge2",
        "bleu",
    )
    kinds: ClassVar[tuple[str, ...]] = ("text", "loss")
    monitor = "loss"
    output = "text"
    families: ClassVar[tuple[str, ...]] = ("decoder",)
    joins_rows = True
    default_max_length = 1024

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._template: str | None = None

    def template(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The Jinja text; it travels in the run, so that nobody can use another one by accident."""
        from tunery.data import templates

        if self._template is None:
            self._template = templates.find(self.config.template, tokenizer)
        return self._template

    def soft_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        from tunery.data import soft

        return soft.count(self.template(tokenizer))

    def soft_at(self, position: Position, example: Example, tokenizer: PreTrainedTokenizerBase) -> int | None:
        from tunery.data.render import prompt_ids, turn_end

        find = turn_end if position == "after" else lambda *arguments: len(prompt_ids(*arguments))
        return find(self.messages(example), tokenizer, self.template(tokenizer))

    def state(self) -> dict[str, Any]:
        return {"template": self._template}

    def restore(self, state: Any) -> None:
        self._template = state["template"]

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        return base.load("causal_lm")  # type: ignore[no-any-return]

    def messages(self, example: Example) -> Sequence[Message]:
        if self.config.system and example.messages[0].role != "system":
            return (Message("system", self.config.system), *example.messages)
        return example.messages

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        return self.encode_all([example], tokenizer, max_length)[0]

    def encode_all(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> list[list[Encoded]]:
        from tunery.data.render import render_all

        conversations = [self.messages(example) for example in examples]
        found = render_all(conversations, tokenizer, self.template(tokenizer), self.config.loss_on)
        result = []
        for example, (ids, labels) in zip(examples, found, strict=True):
            if self.config.loss_on != "all" and labels.count(IGNORE) == len(labels):
                raise DataError("the template leaves no answer to learn from", "check task.template", example.where)
            truncated = len(ids) > max_length
            result.append([Encoded(ids=ids[:max_length], labels=labels[:max_length], truncated=truncated)])
        return result

    def prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
        from tunery.data.render import prompt_ids

        ids = prompt_ids(self.messages(example), tokenizer, self.template(tokenizer))
        if len(ids) > max_length:
            raise DataError(
                f"the question has {len(ids)} tokens, the model reads {max_length}", "shorten it", example.where
            )
        return ids

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """What a rendered answer ends with, and the model's EOS."""
        from tunery.data.render import render

        probe = (Message("user", "?"), Message("assistant", "!"))
        last = [label for label in render(probe, tokenizer, self.template(tokenizer))[1] if label != IGNORE][-1]
        return tuple(sorted({last, *super().stop_ids(tokenizer)}))

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        from tunery.models.heads import next_token_loss

        return (*next_token_loss(model, batch), None)

    def reference(self, example: Example) -> tuple[str, ...]:
        if example.references:
            return example.references
        last = example.messages[-1]
        return (last.content,) if last.role == "assistant" else ()
