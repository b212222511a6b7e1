"""What a task must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tunery.errors import ConfigError
from tunery.protocols.plugin import Plugin, Strict
from tunery.protocols.records import Batch, Encoded, Example, Position, Prediction, SoftPlacement

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


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
