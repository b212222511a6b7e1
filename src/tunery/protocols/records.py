"""The records that pass between the seams: rows, examples, token ids, tensors, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = -100
"""Label of a position that carries no loss (the value torch's ``cross_entropy`` ignores by default)."""

SOFT = 1 << 24
"""Token ids from here on are soft: id ``SOFT + n`` stands for the n-th vector (from 0) that a method learns. They
travel in ``ids`` like any other token, so padding, spans, caches and heads need not know of them; the method puts
its vectors in place where ids become embeddings. A label is never soft.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file as it was read: column values and the place it came from."""

    values: Mapping[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One example, whatever file format it came from and whatever model will read it.

    Conversations and question/answer rows fill ``messages`` (the last one is the answer to learn; it is
    absent in rows that only ask). Classification, regression and plain text fill ``text``. Extractive questions
    fill ``text`` (the question), ``text_pair`` (the context), ``references`` and ``starts``; tagged sentences fill
    ``words`` and ``tags``.
    """

    file: str
    line: int
    messages: tuple[Message, ...] = ()
    text: str = ""
    text_pair: str | None = None
    label: str | tuple[str, ...] | float | None = None
    references: tuple[str, ...] = ()
    """Every accepted answer, the first being the one in ``messages``."""
    contains: tuple[str, ...] = ()
    """Key facts that a right answer must contain."""
    starts: tuple[int, ...] = ()
    """Where in ``text_pair`` each of ``references`` begins, in characters."""
    words: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """One tag a word (BIO); empty in rows to predict."""
    group: str | None = None
    """Value of the column ``data.group`` or ``data.time``, where one is named."""
    copy: str = ""
    """The augmentation step that made this example out of the row at that place; empty for the row itself."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def input_text(self) -> str:
        """What the model is asked, as one string; two examples with equal input text are duplicates."""
        if self.messages:
            asked = self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages
            return "\n".join(message.content for message in asked)
        if self.words:
            return " ".join(self.words)
        return self.text if self.text_pair is None else f"{self.text}\n{self.text_pair}"


@dataclass(slots=True)
class Encoded:
    """An example as token ids.

    ``labels[i]`` is ``ids[i]`` where that token is to be predicted (from the positions before it) and
    ``IGNORE`` elsewhere. ``target`` is the class id, class vector or number of tasks that score a row
    as a whole. The others belong to tasks that predict something else: ``tags[i]`` the class of position i,
    ``answer`` the ids that an encoder-decoder writes, ``span`` the first and last position of an answer in ``ids``.
    ``offsets[i]`` is the [start, end) that position i stands for, in characters of ``text_pair`` or in words, and
    empty where it stands for none: with them the task finds its answer in the example again.
    """

    ids: list[int]
    labels: list[int] | None = None
    target: int | float | list[float] | None = None
    type_ids: list[int] | None = None
    tags: list[int] | None = None
    answer: list[int] | None = None
    span: tuple[int, int] | None = None
    offsets: list[tuple[int, int]] | None = None
    truncated: bool = False
    row: int = 0
    """Index of the example in its split (windows of one document share it)."""

    @property
    def length(self) -> int:
        """Tokens that the model computes for this row."""
        return len(self.ids) + len(self.answer or ())

    @property
    def supervised(self) -> int:
        """Number of targets: supervised tokens, or 1 for a task that scores rows."""
        if self.labels is not None:
            return len(self.labels) - self.labels.count(IGNORE) - (self.labels[:1] not in ([], [IGNORE]))
        if self.tags is not None:
            return len(self.tags) - self.tags.count(IGNORE)
        if self.answer is not None:
            return len(self.answer)
        return 0 if self.target is None and self.span is None else 1

    def insert(self, at: int, ids: Sequence[int]) -> None:
        """Put tokens without a target before position ``at``; everything that speaks of positions moves along."""
        if self.labels is not None:
            self.labels[at:at] = [IGNORE] * len(ids)
        if self.tags is not None:
            self.tags[at:at] = [IGNORE] * len(ids)
        if self.type_ids is not None:
            kind = self.type_ids[min(at, len(self.type_ids) - 1)]
            self.type_ids[at:at] = [kind] * len(ids)
        if self.offsets is not None:
            self.offsets[at:at] = [(0, 0)] * len(ids)
        if self.span is not None:
            first, last = (place + len(ids) if place >= at else place for place in self.span)
            self.span = (first, last)
        self.ids[at:at] = ids

    def without_soft(self) -> Encoded:
        """The same row as the bare base model reads it: without soft tokens."""
        if all(i < SOFT for i in self.ids):
            return self
        kept = [place for place, i in enumerate(self.ids) if i < SOFT]

        def pick(values: list[Any] | None) -> list[Any] | None:
            return None if values is None else [values[place] for place in kept]

        return replace(
            self,
            ids=[self.ids[place] for place in kept],
            labels=pick(self.labels),
            type_ids=pick(self.type_ids),
            tags=pick(self.tags),
            offsets=pick(self.offsets),
            span=None if self.span is None else (kept.index(self.span[0]), kept.index(self.span[1])),
        )


Position = Literal["before", "after", "between"]


@dataclass(frozen=True, slots=True)
class SoftPlacement:
    """Soft tokens that a method puts into every row, where the task's template has none: ``before`` the input,
    ``after`` it (and before what asks for an answer), or ``between`` all that is asked and the answer.
    """

    tokens: int
    position: Position


Batch = dict[str, "Tensor"]
"""``input_ids``, ``attention_mask`` (both [rows, length]) and what the task's loss needs:
``labels`` or ``tags`` [rows, length], ``answer`` [rows, answer length] (``IGNORE`` where it is padded),
``span`` [rows, 2], or ``target`` [rows] / [rows, classes]."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one example, in words a user understands."""

    value: Any
    """Label, list of labels, number, text, or list of tags."""
    probabilities: dict[str, float] | None = None


@dataclass(slots=True)
class Scored:
    """All a metric may look at. ``predictions[i]`` belongs to ``references[i]``."""

    predictions: list[Any] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    """Label, tuple of labels, number, tuple of accepted answers, or tuple of tags."""
    contains: list[tuple[str, ...]] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    """All class names, in order, for classification."""
    loss_sum: float = 0.0
    loss_count: int = 0
