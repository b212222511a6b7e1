"""Language modelling: learn from plain text, every token counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import DataError
from tunery.protocols import IGNORE, Batch, Encoded, Example, Position, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class LanguageModel(Task):
    """Long documents become overlapping windows; with a stride below the window's length, the overlap is
    context only, so every token is counted once.
    """

    class Config(Strict):
        name: Literal["lm"] = "lm"
        stride: int | None = Field(None, ge=1, description="tokens between windows; default: no overlap")

    summary = "go on learning from plain text"
    formats: ClassVar[tuple[str, ...]] = ("text",)
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    kinds: ClassVar[tuple[str, ...]] = ("loss",)
    monitor = "loss"
    output = "text"
    families: ClassVar[tuple[str, ...]] = ("decoder",)
    joins_rows = True
    on_long = "window"
    default_max_length = 512
    soft_positions: ClassVar[tuple[Position, ...]] = ("before",)

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        return base.load("causal_lm")  # type: ignore[no-any-return]

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        from tunery.data.render import encode_text

        ids, _ = encode_text(example.text, tokenizer)
        if tokenizer.eos_token_id is not None:
            ids.append(int(tokenizer.eos_token_id))
        stride = min(self.config.stride or max_length - 1, max_length - 1)
        windows: list[Encoded] = []
        counted = 1  # the first token has nothing before it to be predicted from
        for start in range(0, max(len(ids) - 1, 1), stride):
            part = ids[start : start + max_length]
            labels = [token if start + i >= counted else IGNORE for i, token in enumerate(part)]
            counted = max(counted, start + len(part))
            windows.append(Encoded(ids=part, labels=labels))
            if start + max_length >= len(ids):
                break
        return windows

    def prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
        from tunery.data.render import encode_text

        ids, _ = encode_text(example.text, tokenizer)
        if not ids or len(ids) > max_length:
            raise DataError(f"the text has {len(ids)} tokens, the model reads 1 to {max_length}", "", example.where)
        return ids

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        from tunery.models.heads import next_token_loss

        return (*next_token_loss(model, batch), None)

    def reference(self, example: Example) -> tuple[str, ...]:
        return ()
