"""Examples → encoded rows, every example in exactly one bucket of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunery.config import DataConfig
from tunery.data import soft
from tunery.data.ledger import Ledger
from tunery.data.rows import Rows
from tunery.errors import ConfigError, DataError, ModelError
from tunery.protocols import Encoded, Example, Task

_SEQUENCES = ("references", "starts", "words", "tags")
LIMIT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(slots=True)
class Split:
    """One split, ready for batches. ``rows[i].row`` is the index of its example."""

    examples: Rows = field(default_factory=lambda: Rows.of(()))
    rows: list[Encoded] = field(default_factory=list)
    truncated: int = 0
    windows: int = 0
    """Rows beyond one an example, from cutting long texts into windows."""

    @property
    def supervised(self) -> int:
        return sum(row.supervised for row in self.rows)


def model_limit(base: Any) -> int:
    """Tokens the model can read."""
    limits = [getattr(base.config, key, None) for key in LIMIT_KEYS]
    limit = min((n for n in limits if isinstance(n, int) and n > 0), default=1 << 30)
    if base.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= 2  # positions begin after the padding index there
    return limit


def max_length(wanted: int | None, task: Task, base: Any) -> int:
    """Tokens an example may have. Raises ConfigError if the model reads fewer than asked for."""
    limit = model_limit(base)
    if wanted is not None and wanted > limit:
        raise ConfigError(f"{base.name} reads at most {limit} tokens, not {wanted}", "lower it", "data.max_length")
    return wanted or min(task.default_max_length, limit)


def encode_split(
    name: str, examples: Sequence[Example], task: Task, tokenizer: Any, data: DataConfig, length: int, ledger: Ledger
) -> Split:
    """Apply the policies for long and unusable rows.

    Raises DataError: a label unknown to training, an unusable or too long row where the policy is ``error``,
    no usable row left.
    """
    if data.on_long == "window" and task.on_long != "window":
        raise ConfigError(f"task {task.name} cannot cut a row into windows", "use truncate or drop", "data.on_long")
    split = Split()
    given = Rows.of(examples)
    kept: list[int] = []
    dropped: list[Example] = []
    for place, example in enumerate(given):
        try:
            rows = _encode(example, task, tokenizer, length)
        except DataError as error:
            if data.on_bad_row == "error":
                raise
            ledger.move(example.where, "dropped:bad", error.problem, split=name)
            continue
        long = len(rows) > 1 or rows[0].truncated
        if long and data.on_long == "error":
            raise DataError(
                f"longer than {length} tokens", "raise data.max_length or set data.on_long=truncate", example.where
            )
        useless = not any(row.supervised for row in rows) and _has_target(rows)
        if useless or (long and data.on_long == "drop"):
            dropped.append(example)
            reason = "no supervised token is left" if useless else f"longer than {length} tokens"
            ledger.move(example.where, "dropped:too_long", reason, split=name)
            continue
        if data.on_long == "truncate" and len(rows) > 1:
            rows = rows[:1]
        _note(ledger, name, split, example, rows, long, len(kept))
        kept.append(place)
    split.examples = given.take(kept)
    _check_usable(name, split, dropped, length, data)
    return split


def _encode(example: Example, task: Task, tokenizer: Any, length: int) -> list[Encoded]:
    if problem := task.check(example):
        raise DataError(problem, "correct the row, or drop it with data.on_bad_row=drop", example.where)
    return soft.encode(task, example, tokenizer, length)


def _has_target(rows: Sequence[Encoded]) -> bool:
    return rows[0].labels is not None


def _note(
    ledger: Ledger, name: str, split: Split, example: Example, rows: list[Encoded], long: bool, number: int
) -> None:
    if long and len(rows) == 1:
        split.truncated += 1
        ledger.mark(example.where, "truncated", split=name)
    if len(rows) > 1:
        split.windows += len(rows) - 1
        ledger.mark(example.where, "windows", len(rows), split=name)
    for row in rows:
        row.row = number
    split.rows += rows


def _check_usable(name: str, split: Split, dropped: list[Example], length: int, data: DataConfig) -> None:
    if not split.examples:
        if dropped:
            raise DataError(
                f"no usable {name} row: all {len(dropped)} are longer than data.max_length={length} tokens",
                "raise data.max_length",
                dropped[0].where,
            )
        raise DataError(f"no usable {name} row", "tunery check says why each was dropped")
    if split.truncated == len(split.examples) and data.on_long == "auto":
        raise DataError(
            f"all {split.truncated} {name} rows are longer than data.max_length={length} tokens",
            "raise data.max_length, or set data.on_long=truncate if you mean it",
            split.examples[0].where,
        )


def targets_missing(examples: Sequence[Example], task: Task) -> Example | None:
    """The first example without a reference, if any (evaluation needs one for each)."""
    for example in examples:
        if example.messages and example.messages[-1].role != "assistant":
            return example
    return None


def probe(task: Task, tokenizer: Any, example: Example, length: int) -> dict[str, Any]:
    """An example with its token ids, stored in the run: loading it again must give the same ids."""
    rows = soft.encode(task, example, tokenizer, length)
    return {"example": _plain(example), "ids": rows[0].ids, "max_length": length}


def check_probe(stored: dict[str, Any], task: Task, tokenizer: Any, where: str) -> None:
    """Raises ModelError if tokenizer or template no longer give the ids that were trained on."""
    from tunery.protocols import Message

    fields = dict(stored["example"])
    fields["messages"] = tuple(Message(**m) for m in fields["messages"])
    for key in ("label", *_SEQUENCES):
        if isinstance(fields.get(key), list):
            fields[key] = tuple(fields[key])
    example = Example(**fields)
    if soft.encode(task, example, tokenizer, stored["max_length"])[0].ids != stored["ids"]:
        raise ModelError(
            "tokenizer or template give other token ids than at training",
            "use the tokenizer files and the version of transformers named in the run's manifest.json",
            where,
        )


def _plain(example: Example) -> dict[str, Any]:
    return {
        "file": example.file,
        "line": example.line,
        "messages": [{"role": m.role, "content": m.content} for m in example.messages],
        "text": example.text,
        "text_pair": example.text_pair,
        "label": example.label,
        **{key: list(getattr(example, key)) for key in _SEQUENCES if getattr(example, key)},
    }
