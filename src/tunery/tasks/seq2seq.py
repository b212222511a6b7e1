"""Text to text with encoder-decoder models: translation, summaries, data to text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import DataError
from tunery.protocols import Batch, Encoded, Example, Position, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Seq2Seq(Task):
    """The encoder reads the source, the decoder learns to write the answer, its end included (T5, Raffel et al. 2020,
    arXiv:1910.10683; BART, Lewis et al. 2020, arXiv:1910.13461).

    A source longer than the model reads is cut at its end, also where an answer is generated.
    """

    class Config(Strict):
        name: Literal["seq2seq"] = "seq2seq"
        prefix: str = Field("", description='put before every source, such as "translate English to German: "')
        max_answer: int = Field(128, ge=2, description="tokens of an answer, longer ones are learnt up to there")

    summary = "text to text with an encoder-decoder (T5, BART): translation, summary"
    formats: ClassVar[tuple[str, ...]] = ("pairs", "alpaca", "qa")
    metrics: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "bleu", "rougeL", "rouge1", "rouge2", "exact_match")
    kinds: ClassVar[tuple[str, ...]] = ("text", "loss")
    monitor = "loss"
    output = "text"
    families: ClassVar[tuple[str, ...]] = ("encoder-decoder",)
    default_max_length = 512
    soft_positions: ClassVar[tuple[Position, ...]] = ("before", "after")

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        return base.load("seq2seq_lm")  # type: ignore[no-any-return]

    def soft_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        from tunery.data import soft

        return soft.count(self.config.prefix)

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        source, cut = self._source(example, tokenizer, max_length)
        answer, short = self._answer(example, tokenizer)
        return [Encoded(source, answer=answer, truncated=cut or short)]

    def prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
        return self._source(example, tokenizer, max_length)[0]

    def _source(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[int], bool]:
        """→ ids, and whether some were cut off; the tokens that end a text stay."""
        from tunery.data import soft

        text = soft.compiled(self.config.prefix) + example.input_text
        ids, _ = soft.tokenise(text, tokenizer, self.soft_tokens(tokenizer), special=True)
        if len(ids) <= max_length:
            return ids, False
        ends = list(soft.added(tokenizer)[1])
        return [*ids[: max_length - len(ends)], *ends], True

    def _answer(self, example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], bool]:
        last = example.messages[-1] if example.messages else None
        if last is None or last.role != "assistant":
            raise DataError("no answer to learn from", "give the row a response", example.where)
        ids = list(tokenizer(text_target=last.content)["input_ids"])
        end = tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(int(end))
        if len(ids) <= self.config.max_answer:
            return ids, False
        return [*ids[: self.config.max_answer - 1], ids[-1]], True

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        from tunery.models.heads import answer_loss

        return (*answer_loss(model, batch), None)

    def reference(self, example: Example) -> tuple[str, ...]:
        if example.references:
            return example.references
        last = example.messages[-1]
        return (last.content,) if last.role == "assistant" else ()
