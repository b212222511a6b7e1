"""Tagging: one tag for each word of a sentence (named entities, parts of speech)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tunery.data import balance
from tunery.errors import DataError
from tunery.protocols import IGNORE, Batch, Encoded, Example, Position, Prediction, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

OUTSIDE = "O"
"""The tag of a word that belongs to nothing."""


class Tag(Task):
    """Cross-entropy over the tags at the first token of each word; its other tokens carry no loss.

    Words are joined as they are written: with spaces, but without one beside a Chinese or Japanese character. A
    word that was cut off, or of which the tokenizer leaves nothing, is predicted as O.
    """

    class Config(Strict):
        name: Literal["tag"] = "tag"

    summary = "a tag for each word: named entities (BIO), parts of speech"
    formats: ClassVar[tuple[str, ...]] = ("tags",)
    metrics: ClassVar[tuple[str, ...]] = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy", "loss")
    kinds: ClassVar[tuple[str, ...]] = ("tags", "loss")
    monitor = "entity_f1"
    output = "logits"
    default_max_length = 256
    soft_positions: ClassVar[tuple[Position, ...]] = ("before",)

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tags: tuple[str, ...] = ()
        self.named = False
        """Whether the user gave the tags."""
        self._counts: Counter[str] = Counter()

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        found = Counter(tag for example in examples for tag in example.tags)
        if len(found) < 2:
            raise DataError(
                f"all words of the {len(examples)} training rows have the same tag {next(iter(found), 'none')!r}",
                "a tagger needs words of at least two tags",
                examples[0].where if examples else "",
            )
        self.named = bool(labels)
        self.tags = tuple(labels or sorted(found, key=lambda tag: (tag != OUTSIDE, tag)))
        self._counts = found

    def balance(self) -> None:
        """By the words of each tag."""
        self.class_weights = balance.weights(self._counts, self.tags)

    def check(self, example: Example) -> str | None:
        unknown = next((tag for tag in example.tags if tag not in self.tags), None)
        where = "in data.labels" if self.named else "among the training rows"
        return None if unknown is None else f"tag {unknown!r} is not {where}"

    def state(self) -> dict[str, Any]:
        return {"tags": list(self.tags)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.tags = tuple(state["tags"])

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        names = dict(enumerate(self.tags))
        return base.load(  # type: ignore[no-any-return]
            "token_classification",
            num_labels=len(names),
            id2label=names,
            label2id={tag: i for i, tag in names.items()},
        )

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        from tunery.data.words import joined

        words = joined(_words(example))
        encoded: Any = tokenizer(words, is_split_into_words=True)
        truncated = len(encoded["input_ids"]) > max_length
        if truncated:
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        offsets, tags = [], []
        before: int | None = None
        for word in encoded.word_ids():
            begins = word is not None and word != before
            offsets.append((word, word + 1) if begins else (0, 0))
            tags.append(self.tags.index(example.tags[word]) if begins and example.tags else IGNORE)
            before = word
        ids = list(encoded["input_ids"])
        return [Encoded(ids, tags=tags if example.tags else None, offsets=offsets, truncated=truncated)]

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        import torch
        from torch.nn import functional as F

        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        chosen = logits.argmax(-1)  # [rows, length]
        tags = batch.get("tags")
        if tags is None:
            return logits.new_zeros((), dtype=torch.float32), torch.tensor(0), chosen
        weight = None
        if self.class_weights and model.training:
            weight = logits.new_tensor([self.class_weights[tag] for tag in self.tags], dtype=torch.float32)
        scores, answers = logits.float().flatten(0, 1), tags.flatten()
        total = F.cross_entropy(scores, answers, weight, ignore_index=IGNORE, reduction="sum")
        return total, (tags != IGNORE).sum(), chosen

    def decode(self, outputs: Tensor) -> list[Prediction]:
        """The class of every position; ``combine`` picks those of the words."""
        return [Prediction(classes) for classes in outputs.tolist()]

    def combine(
        self, rows: Sequence[Encoded], predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> list[Prediction]:
        unread = OUTSIDE if OUTSIDE in self.tags else self.tags[0]
        tags = [[unread] * len(_words(example)) for example in examples]
        for row, prediction in zip(rows, predictions, strict=True):
            for (word, end), number in zip(row.offsets or (), prediction.value, strict=False):
                if word < end:
                    tags[row.row][word] = self.tags[number]
        return [Prediction(found) for found in tags]

    def reference(self, example: Example) -> tuple[str, ...]:
        return example.tags


def _words(example: Example) -> tuple[str, ...]:
    """The words of a row; a bare text is cut at spaces, Chinese and Japanese into characters."""
    from tunery.data.words import split

    words = example.words or split(example.text)
    if not words:
        raise DataError("no words to tag", "give rows with a list of words", example.where)
    return words
