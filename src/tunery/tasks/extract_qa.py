"""Extractive question answering: the answer is a piece of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import DataError
from tunery.protocols import SOFT, Batch, Encoded, Example, Position, Prediction, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

LEAST_ROOM = 4
"""Tokens of the context that a window must hold beside the question."""


class ExtractQA(Task):
    """Two cross-entropies over the positions of a row, one for the first and one for the last token of the answer
    (Devlin et al. 2018, arXiv:1810.04805). A long context is cut into overlapping windows; those without the answer
    point to the first token. The answer is the best span of all windows, cut from the context as it was written.

    If some training questions have no answer, "" is predicted where all windows together prefer that.
    """

    class Config(Strict):
        name: Literal["extract_qa"] = "extract_qa"
        stride: int = Field(128, ge=0, description="tokens that neighbouring windows of a long context share")
        max_answer: int = Field(64, ge=1, description="most tokens of a predicted answer")

    summary = "find the answer to a question in a text (SQuAD, CMRC 2018)"
    formats: ClassVar[tuple[str, ...]] = ("squad",)
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match", "loss")
    kinds: ClassVar[tuple[str, ...]] = ("text", "loss")
    monitor = "f1"
    output = "logits"
    on_long = "window"
    default_max_length = 384
    soft_positions: ClassVar[tuple[Position, ...]] = ("before", "between")

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.unanswerable = False
        """Whether training rows without an answer taught the model to say so."""

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        self.unanswerable = any(example.references == ("",) for example in examples)

    def state(self) -> dict[str, Any]:
        return {"unanswerable": self.unanswerable}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.unanswerable = state["unanswerable"]

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        return base.load("question_answering")  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------------- rows

    def soft_at(self, position: Position, example: Example, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Between question and context."""
        probe: Any = tokenizer(_question(example, tokenizer), "a")
        return probe.sequence_ids().index(1)  # type: ignore[no-any-return]

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        question = _question(example, tokenizer)
        asked = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        room = max_length - asked - tokenizer.num_special_tokens_to_add(pair=True)
        if room < LEAST_ROOM:
            problem = f"the question has {asked} tokens, which leaves no room for the context in {max_length}"
            raise DataError(problem, "shorten it, or raise data.max_length", example.where)
        windows: Any = tokenizer(
            question,
            example.text_pair,
            truncation="only_second",
            max_length=max_length,
            stride=min(self.config.stride, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        types = windows.get("token_type_ids")
        answer = _answer(example)
        rows = []
        for i, ids in enumerate(windows["input_ids"]):
            parts = zip(windows["offset_mapping"][i], windows.sequence_ids(i), strict=True)
            offsets = [tuple(place) if part == 1 else (0, 0) for place, part in parts]
            span = _span(offsets, answer) if example.references else None
            rows.append(Encoded(list(ids), type_ids=types[i] if types else None, span=span, offsets=offsets))
        return rows

    # ------------------------------------------------------------------------------------------- model

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        import torch
        from torch.nn import functional as F

        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        out = model(**inputs)
        scores = torch.stack([out.start_logits, out.end_logits], -1).float()  # [rows, length, 2]
        # padding is no place for an answer, and the loss of a row must not depend on its neighbours
        scores = scores.masked_fill(batch["attention_mask"].unsqueeze(-1) == 0, torch.finfo(torch.float32).min)
        span = batch.get("span")
        if span is None:
            return scores.new_zeros(()), torch.tensor(0), scores
        total = F.cross_entropy(scores, span, reduction="sum") / 2
        return total, torch.tensor(len(span), device=span.device), scores

    def decode(self, outputs: Tensor) -> list[Prediction]:
        """The scores of each row; ``combine`` makes them answers."""
        return [Prediction(scores) for scores in outputs.cpu()]

    def combine(
        self, rows: Sequence[Encoded], predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> list[Prediction]:
        answers = [""] * len(examples)
        best = [float("-inf")] * len(examples)
        none = [float("inf")] * len(examples)
        for row, prediction in zip(rows, predictions, strict=True):
            score, first, last = _best(row, prediction.value, self.config.max_answer)
            if score > best[row.row]:
                best[row.row] = score
                answers[row.row] = (examples[row.row].text_pair or "")[first:last].strip()
            start = next(place for place, i in enumerate(row.ids) if i < SOFT)
            none[row.row] = min(none[row.row], float(prediction.value[start].sum()))
        if self.unanswerable:
            answers = ["" if n > b else answer for answer, n, b in zip(answers, none, best, strict=True)]
        return [Prediction(answer) for answer in answers]

    def reference(self, example: Example) -> tuple[str, ...]:
        return example.references


def _question(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """With a line break where the tokenizer puts nothing between two texts, as those of decoders."""
    if example.text_pair is None:
        raise DataError("no context to find the answer in", "give rows with context and question", example.where)
    apart = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)
    return example.text if apart else f"{example.text}\n"


def _answer(example: Example) -> tuple[int, int] | None:
    """[start, end) in characters of the answer to learn: the first that stands in the context."""
    found = (
        (start, start + len(text))
        for text, start in zip(example.references, example.starts, strict=False)
        if start >= 0
    )
    return next(found, None)


def _span(offsets: Sequence[tuple[int, int]], answer: tuple[int, int] | None) -> tuple[int, int]:
    """First and last position of the answer; (0, 0) where it is not whole in this window."""
    if answer is None:
        return 0, 0
    start, end = answer
    places = [(i, a, b) for i, (a, b) in enumerate(offsets) if a < b]
    inside = [i for i, a, b in places if a < end and b > start]
    whole = bool(inside) and places[0][1] <= start and places[-1][2] >= end
    return (inside[0], inside[-1]) if whole else (0, 0)


def _best(row: Encoded, scores: Tensor, longest: int) -> tuple[float, int, int]:
    """The best span of a window: sum of its two scores, [start, end) in characters of the context."""
    offsets = row.offsets or []
    places = [i for i, (a, b) in enumerate(offsets) if a < b]
    if not places:
        return float("-inf"), 0, 0
    start, end = scores[places].unbind(-1)
    sums = start.unsqueeze(1) + end.unsqueeze(0)  # [first token, last token]
    allowed = sums.new_ones(sums.shape).triu().tril(longest - 1).bool()
    sums = sums.masked_fill(~allowed, float("-inf"))
    first, last = divmod(int(sums.argmax()), len(places))
    return float(sums[first, last]), offsets[places[first]][0], offsets[places[last]][1]
