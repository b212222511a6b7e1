"""Classification of a text or a pair of texts, with one or several labels a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tunery.data import balance
from tunery.errors import DataError
from tunery.protocols import Batch, Encoded, Example, Prediction, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


class Classify(Task):
    """Cross-entropy over the labels; binary cross-entropy per label where rows have several."""

    class Config(Strict):
        name: Literal["classify"] = "classify"
        pooling: Literal["auto", "stock", "mean", "cls", "max", "last"] = Field(
            "auto", description="tokens → one vector; auto: as the sentence encoder was made, else the stock head"
        )
        threshold: float = Field(0.5, gt=0, lt=1, description="probability from which one of several labels is given")

    summary = "one label a text (or several, or a label for a pair of texts)"
    formats: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "f1_weighted",
        "f1_macro",
        "precision_macro",
        "recall_macro",
        "loss",
    )
    kinds: ClassVar[tuple[str, ...]] = ("classes", "loss")
    monitor = "accuracy"
    output = "logits"
    default_max_length = 256

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.labels: tuple[str, ...] = ()
        self.multi = False
        self.named = False
        """Whether the user gave the labels."""
        self.uneven = False
        """Whether there are so many more rows of one label than of another that accuracy says little."""
        self._counts: Counter[str] = Counter()
        self._rows = 0

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        self.multi = any(isinstance(example.label, tuple) for example in examples)
        counts = Counter(label for example in examples for label in _labels(example))
        if not self.multi and len(counts) < 2:
            only = next(iter(counts), "none")
            raise DataError(
                f"all {len(examples)} training rows have the same label {only!r}",
                "a classifier needs rows of at least two labels",
                examples[0].where if examples else "",
            )
        self.named = bool(labels)
        self.labels = tuple(labels or sorted(counts))
        self._counts, self._rows = counts, len(examples)
        self.uneven = balance.ratio(counts) > balance.UNEVEN
        self._choose()
        if self.uneven:
            self.notes = (balance.note(counts, self.monitor),)

    def balance(self) -> None:
        if self.multi:
            self.class_weights = balance.positive_weights(self._counts, self.labels, self._rows)
        else:
            self.class_weights = balance.weights(self._counts, self.labels)

    def check(self, example: Example) -> str | None:
        if isinstance(example.label, tuple) and not self.multi:
            return "several labels in one row, and one in the training rows"
        unknown = [label for label in _labels(example) if label not in self.labels]
        where = "in data.labels" if self.named else "among the training rows"
        return f"label {unknown[0]!r} is not {where}" if unknown else None

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "multi": self.multi, "uneven": self.uneven}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels, self.multi = tuple(state["labels"]), state["multi"]
        self.uneven = state.get("uneven", False)  # runs of version 0.1.0 do not say
        self._choose()

    def _choose(self) -> None:
        """Rows with several labels are judged by other numbers, and uneven classes by the mean of the classes first."""
        if self.multi:
            self.metrics = ("f1_micro", "f1_samples", "subset_accuracy", "loss")  # type: ignore[misc]
            self.kinds = ("multilabel", "loss")  # type: ignore[misc]
            self.monitor = "f1_micro"  # type: ignore[misc]
        if self.uneven:
            self.monitor = "f1_macro_labels" if self.multi else "f1_macro"  # type: ignore[misc]
            self.metrics = tuple(dict.fromkeys((self.monitor, *self.metrics)))  # type: ignore[misc]

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        from tunery.models.heads import row_head

        return row_head(base, len(self.labels), self.config.pooling, dict(enumerate(self.labels)), self.multi)

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        from tunery.data.render import encode_row

        encoded = encode_row(example, tokenizer, max_length)
        if example.label is not None:
            given = {self.labels.index(label) for label in _labels(example)}
            if self.multi:
                encoded.target = [float(i in given) for i in range(len(self.labels))]
            else:
                encoded.target = given.pop()
        return [encoded]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        import torch
        from torch.nn import functional as F

        from tunery.models.heads import row_logits

        logits = row_logits(model, batch)
        target = batch.get("target")
        if target is None:
            return logits.new_zeros(()), torch.tensor(0), logits
        weight = None
        if self.class_weights and model.training:
            weight = logits.new_tensor([self.class_weights[label] for label in self.labels])
        if self.multi:
            losses = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
            total = losses.mean(1).sum()
        else:
            total = F.cross_entropy(logits, target, weight, reduction="sum")
        return total, torch.tensor(len(logits), device=logits.device), logits

    def decode(self, outputs: Tensor) -> list[Prediction]:
        shares = (outputs.sigmoid() if self.multi else outputs.softmax(-1)).tolist()
        found = []
        for row in shares:
            named = dict(zip(self.labels, row, strict=True))
            if self.multi:
                value: Any = tuple(label for label, p in named.items() if p >= self.config.threshold)
            else:
                value = max(named, key=named.__getitem__)
            found.append(Prediction(value, named))
        return found

    def reference(self, example: Example) -> Any:
        return tuple(_labels(example)) if self.multi else example.label


def _labels(example: Example) -> list[str]:
    if example.label is None:
        return []
    return list(example.label) if isinstance(example.label, tuple) else [str(example.label)]
