"""Regression: a text, or a pair of texts, → a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.errors import DataError
from tunery.protocols import Batch, Encoded, Example, Prediction, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Regress(Task):
    """Squared error on targets scaled to mean 0 and deviation 1 over the training rows."""

    class Config(Strict):
        name: Literal["regress"] = "regress"
        pooling: Literal["auto", "stock", "mean", "cls", "max", "last"] = Field(
            "auto", description="tokens → one vector; auto: as the sentence encoder was made, else the stock head"
        )

    summary = "a number for a text or a pair of texts"
    formats: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "pearson", "spearman", "loss")
    kinds: ClassVar[tuple[str, ...]] = ("numbers", "loss")
    monitor = "loss"
    output = "logits"
    default_max_length = 256

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.mean, self.deviation = 0.0, 1.0

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        values = [_number(example) for example in examples if self.check(example) is None]
        if not values:
            where = examples[0].where if examples else ""
            raise DataError("no training row has a number as its label", "task=classify takes names", where)
        self.mean = sum(values) / len(values)
        self.deviation = math.sqrt(sum((v - self.mean) ** 2 for v in values) / len(values))
        if self.deviation == 0:
            raise DataError(f"all training rows have the same target {values[0]}", "there is nothing to learn")

    def check(self, example: Example) -> str | None:
        try:
            _number(example)
        except DataError as error:
            return error.problem
        return None

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = state["mean"], state["deviation"]

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        from tunery.models.heads import row_head

        return row_head(base, 1, self.config.pooling, {0: "number"}, False)

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        from tunery.data.render import encode_row

        encoded = encode_row(example, tokenizer, max_length)
        if example.label is not None:
            encoded.target = (_number(example) - self.mean) / self.deviation
        return [encoded]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        import torch

        from tunery.models.heads import row_logits

        values = row_logits(model, batch).squeeze(-1)
        target = batch.get("target")
        if target is None:
            return values.new_zeros(()), torch.tensor(0), values
        return ((values - target) ** 2).sum(), torch.tensor(len(values), device=values.device), values

    def decode(self, outputs: Tensor) -> list[Prediction]:
        return [Prediction(value * self.deviation + self.mean) for value in outputs.tolist()]

    def reference(self, example: Example) -> float | None:
        return None if example.label is None else _number(example)


def _number(example: Example) -> float:
    try:
        value = float(example.label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"label {example.label!r} is not a number", "task=classify takes names", example.where)
    return value
