"""The seams: what a format, a task, a method, a metric and a step must offer, and the records that pass between them.

Data flows one way::

    file → Row → Example → Encoded → Batch → task.loss(model, batch)

A *task* says how an example becomes tokens, which head and loss it has and which metrics are natural.
A *method* says which parameters are trained and how they attach. Any method goes with any task, or refuses
with a reason. Nothing here imports torch: a plug-in imports it inside its functions, so that listing the
methods or checking a configuration costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunery.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
"""Label of a position that carries no loss (the value torch's ``cross_entropy`` ignores by default)."""


SOFT = 1 << 24
"""Token ids from here on are soft: id ``SOFT + n`` stands for the n-th vector (from 0) that a method learns. They
travel in ``ids`` like any other token, so padding, spans, caches and heads need not know of them; the method puts
its vectors in place where ids become embeddings. A label is never soft.
"""


class Strict(BaseModel):
    """Base of every configuration section: unknown keys are errors, fields carry their own help."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


# ------------------------------------------------------------------------------------------------ records


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


# ---------------------------------------------------------------------------------------------- plug-ins


class Plugin:
    """Something that is found by the name of its file. ``name`` is set by the registry."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""


class Format(Plugin):
    """How the columns of a row become an example."""

    columns: ClassVar[tuple[str, ...]]
    """Columns it needs."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Columns it uses if present."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Those of ``columns`` that hold the answer: rows to predict do without them."""
    task: ClassVar[str]
    """The task that is natural for this format."""
    note: ClassVar[str] = ""
    """What is said to everyone whose rows are read in this format."""

    def matches(self, columns: Iterable[str]) -> float:
        """How well a table with these columns fits, 0 (not at all) to 1."""
        have = set(columns)
        if not set(self.columns) <= have:
            return 0.0
        known = len(have & {*self.columns, *self.optional})
        return 0.5 + 0.4 * known / len(have) + 0.01 * len(self.columns)

    def rows(self, row: Row) -> Iterable[Row]:
        """The rows that a record is: itself, or several if they are nested in it. Each has a place of its own. Raises
        DataError if the record is unusable.
        """
        return (row,)

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError naming ``row.where`` if the row is unusable."""
        raise NotImplementedError


class Cleaner(Plugin):
    """A step of ``data.clean``: changes texts, always in the same way, or tells which rows are left out."""

    class Config(Strict):
        name: str = ""

    changes: ClassVar[bool] = True
    """False for a step that only leaves rows out."""
    answers: ClassVar[bool] = False
    """Whether it leaves the meaning and the wording alone, so that answers may be cleaned like questions."""
    note: ClassVar[str] = ""
    """What to tell whoever uses it."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError: a package or a file that it needs is missing."""
        self.config = config

    def clean(self, text: str) -> str:
        return text

    def drops(self, text: str) -> str | None:
        """Why a row with this input is left out, or None. Rows to predict never are."""
        return None


class Augmenter(Plugin):
    """A step of ``data.augment``: makes changed copies of training rows that keep their label or answer."""

    class Config(Strict):
        name: str = ""
        copies: int = Field(1, ge=1, le=100, description="copies of each training row")

    files: tuple[str, ...] = ()
    """Files that it reads."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError or DataError: a file or a corpus that it needs is missing or wrong."""
        self.config = config

    def augment(self, text: str, pick: random.Random) -> str | None:
        """A changed text, by chance that comes from ``pick`` alone; None where there is nothing to change."""
        raise NotImplementedError


class Task(Plugin):
    """How an example becomes tokens, which head and loss it has, how outputs become predictions.

    One instance belongs to one run. ``fit`` looks at the training examples once (label set, scale of the
    targets); ``state``/``restore`` carry that through the run directory.
    """

    class Config(Strict):
        name: str = ""

    formats: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    """Names of the numbers reported by default, most important first."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of metric that can read its predictions."""
    monitor: ClassVar[str]
    """The number that early stopping and "best" look at."""
    output: ClassVar[Literal["logits", "text"]]
    families: ClassVar[tuple[str, ...]] = ("decoder", "encoder", "encoder-decoder")
    """Kinds of base model it can use."""
    language_head: ClassVar[bool] = False
    """Whether its logits come from the head of a language model, which sentence encoders do not have."""
    on_long: ClassVar[Literal["truncate", "window"]] = "truncate"
    default_max_length: ClassVar[int] = 512
    joins_rows: ClassVar[bool] = False
    """Whether its loss takes rows that lie end to end (``data.batch.join``) as well as padded ones."""
    soft_positions: ClassVar[tuple[Position, ...]] = ("before", "after", "between")
    """Where soft tokens can change what the model predicts."""
    soft: SoftPlacement | None = None
    """Set by ``Method.prepare``. ``data.soft.encode`` and ``data.soft.prompt`` put them in: call those, not ``encode``
    and ``prompt``, to get what the model reads."""

    notes: tuple[str, ...] = ()
    """What ``fit`` found that the user should know."""
    class_weights: Mapping[str, float] = MappingProxyType({})
    """Set by ``balance``. They weigh in training alone: the loss of an evaluation is the mean of all rows."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def balance(self) -> None:
        """Weigh the classes in the training loss by how rare they are (``train.class_weights``). Called after ``fit``.

        Raises ConfigError for a task without classes.
        """
        where = "train.class_weights"
        raise ConfigError(f"task {self.name} has no classes to weigh", f"leave {where} out", where)

    def soft_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Number of soft tokens ``[soft:n]`` in the task's template (``data.soft.count``)."""
        return 0

    def soft_at(self, position: Position, example: Example, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Position in the ids of ``encode`` and ``prompt`` where soft tokens go ``after`` the input or ``between`` it
        and the answer; None: before the special tokens that end a row.
        """
        return None

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        """Learn from the training examples what the head needs; ``labels``: names and order the user wants.
        Raises DataError (e.g. only one label).
        """

    def check(self, example: Example) -> str | None:
        """Why an example cannot be used (a label never seen in training), or None."""
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""

    def refuses(self, base: Any) -> str | None:
        """Why this base cannot be used, beside its family, with the alternative ("problem; hint"); or None. Reads no
        weights, so that it costs nothing before the data is encoded.
        """
        return None

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        """Load the base with this task's head → model, names of the modules that are new."""
        raise NotImplementedError

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        """Ids and targets; several of them where a long text is cut into windows. ``Encoded.truncated``
        tells that tokens were cut off to fit ``max_length``.
        """
        raise NotImplementedError

    def encode_all(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> list[list[Encoded]]:
        """``encode`` of many examples; a task may do it faster than one by one. Raises as ``encode``, for any."""
        return [self.encode(example, tokenizer, max_length) for example in examples]

    def prompt(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
        """Ids to generate from, for tasks whose output is text. Raises DataError if they do not fit."""
        raise NotImplementedError

    def stop_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Token ids that end an answer."""
        return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """→ sum of the losses (scalar, fp32), number of targets, and the outputs ``decode`` reads."""
        raise NotImplementedError

    def decode(self, outputs: Tensor) -> list[Prediction]:
        """Outputs of ``loss`` → one prediction a row, for tasks whose output is logits."""
        raise NotImplementedError

    def combine(
        self, rows: Sequence[Encoded], predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> list[Prediction]:
        """What ``decode`` says of the rows → one prediction an example, in the order of ``examples``.

        ``rows[i].row`` is the index of its example. A task that cuts an example into windows, or needs the example
        to put its outputs into words, does so here.
        """
        return list(predictions)

    def reference(self, example: Example) -> Any:
        """What a prediction is compared with."""
        raise NotImplementedError


class Method(Plugin):
    """Which parameters are trained and how they attach. Everything happens in place: after ``attach`` the
    same model object computes the tuned function, so that nobody else needs to know the method.
    """

    class Config(Strict):
        name: str = ""

    paper: ClassVar[str] = ""
    saves: ClassVar[str] = ""
    """What is in the run's ``model/`` folder."""
    merges: ClassVar[bool] = False
    joins_rows: ClassVar[bool] = False
    """Whether what it adds looks at one token at a time, so that rows may lie end to end."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> None:
        """Called once before rows are encoded and before ``attach`` or ``load``: a method that learns soft tokens
        looks into the task's template for them, or tells the task where to put some. Raises ConfigError.
        """
        if task.soft_tokens(tokenizer):
            raise ConfigError(
                f"the template has soft tokens, and method {self.name} learns none",
                "use method=p_tuning or prompt, or take [soft:n] out of it",
                "task.template",
            )

    def default_lr(self, parameters: int, family: str) -> float:
        """A starting learning rate. ``parameters``: of the base; ``family``: decoder, encoder or encoder-decoder."""
        raise NotImplementedError

    def refuses(self, task: Task, model: nn.Module) -> str | None:
        """Why this cannot work on that model and task, with the alternative; or None."""
        return None

    def attach(self, model: nn.Module, head: tuple[str, ...]) -> None:
        """Freeze the base, add or free the trained parts. ``head``: new modules, trained by every method."""
        raise NotImplementedError

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Trained parameters as optimizer groups: ``named`` (list of (name, parameter)), ``lr_scale``."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [{"named": named, "lr_scale": 1.0}]

    def begin(self, model: nn.Module, total_steps: int) -> None:
        """Called once after ``attach``, before the first step or the checkpoint to resume from (schedules)."""

    def before_step(self, model: nn.Module, step: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Called before each optimizer step; ``step`` counts from 1.

        Args:
            weights: by parameter name, the optimizer's fp32 copy and its gradient: that of the mean loss over all
                targets of the step, before clipping. A term of the method's own is added to it in place.
        """

    def after_step(self, model: nn.Module, step: int, weights: Mapping[str, Tensor]) -> None:
        """Called after each optimizer step.

        Args:
            weights: by parameter name, the optimizer's fp32 copies; what is changed in the model changes here too.
        """

    def complete(self, step: int) -> bool:
        """Whether the weights after this step may be those that the run keeps (a rank schedule must be over)."""
        return True

    def train_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What resuming needs beside the trained parameters and the optimizer's state."""
        return {}

    def load_train_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``train_state``."""

    def carried(self, model: nn.Module, source: nn.Module) -> dict[str, Tensor]:
        """For a run that goes on from another: values for ``model``, fresh from ``attach``, out of ``source``, as
        ``load`` made it, by name of a parameter or buffer of ``model``. Trained parameters that have the same name in
        both need not be among them.
        """
        return {}

    def scaled(self) -> tuple[str, ...]:
        """Parts of names: the trained parameters that are moved in a straight line from where they started (the bare
        base, or next to it) to where training took them, when a run scales what it has learnt. ("",) means all of
        them, () that this method has no such scale.
        """
        return ("",)

    def save(self, model: nn.Module, folder: Path) -> None:
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...], name: str = "default") -> None:
        """Attach what ``save`` wrote to a base model fresh from disk."""
        raise NotImplementedError

    def activate(self, model: nn.Module, name: str | None) -> None:
        """Choose among several loaded adapters; None switches back to the bare base."""
        raise NotImplementedError

    def merge(self, model: nn.Module) -> str | None:
        """Fold the trained parts into the base weights; returns a reason instead if that is impossible."""
        return "this method cannot be merged into the base weights"


@dataclass(frozen=True, slots=True)
class Number:
    """One number that a metric reports."""

    name: str
    summary: str
    higher_is_better: bool = True
    mean_of_rows: bool = False
    """Whether it is the mean of what ``compute`` gives for each row alone, less the rows for which it gives nothing."""


class Metric(Plugin):
    """A pure function of predictions and references → numbers with fixed names."""

    numbers: ClassVar[tuple[Number, ...]]
    kind: ClassVar[Literal["classes", "multilabel", "numbers", "text", "tags", "loss"]]
    """Which predictions it can read."""

    def compute(self, scored: Scored) -> dict[str, float]:
        raise NotImplementedError
