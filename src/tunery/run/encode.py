"""Examples → encoded rows, every example in exactly one bucket of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunery.config import Config, DataConfig
from tunery.data import soft
from tunery.data.encoded import supervised
from tunery.data.ledger import Ledger
from tunery.data.rows import Rows
from tunery.errors import ConfigError, DataError, ModelError
from tunery.protocols import Encoded, Example, Task
from tunery.run.encode_cache import Part, encode_all

_SEQUENCES = ("references", "starts", "words", "tags")
_DROP = "correct the row, or drop it with data.on_bad_row=drop"
_STRICT = ("error", "drop")
LIMIT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(slots=True)
class Split:
    """One split, ready for batches. ``rows[i].row`` is the index of its example."""

    examples: Rows = field(default_factory=lambda: Rows.of(()))
    rows: Sequence[Encoded] = ()
    truncated: int = 0
    windows: int = 0
    """Rows beyond one an example, from cutting long texts into windows."""
    too_long: int = 0
    """Rows that were left out: nothing to learn was left of them after cutting, or ``data.on_long=drop``."""
    copies: int = 0
    """Examples that are augmented copies; they are no input rows, and the numbers above do not count them."""

    @property
    def sources(self) -> Rows:
        """Examples that are rows of a file; the copies come after them."""
        return self.examples[: len(self.examples) - self.copies]

    @property
    def supervised(self) -> int:
        return supervised(self.rows)

    def told(self, name: str, length: int) -> list[str]:
        """What became of long rows, in words for the user."""
        every = len(self.sources) + self.too_long
        notes = []
        if self.truncated:
            notes.append(f"{name}: {self.truncated} of {every} rows cut to {length} tokens (data.on_long)")
        if self.too_long:
            why = f"left out, too long for {length} tokens (the ledger names them)"
            notes.append(f"{name}: {self.too_long} of {every} rows {why}")
        return notes


def model_limit(base: Any) -> int:
    """Tokens the model can read."""
    limits = [getattr(base.config, key, None) for key in LIMIT_KEYS]
    limit = min((n for n in limits if isinstance(n, int) and n > 0), default=1 << 30)
    if base.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        limit -= 2  # positions begin after the padding index there
    return limit


def max_prompt(config: Config, base: Any) -> int:
    """Tokens of a question. An encoder's do not share their places with the answer; a decoder's do."""
    if base.family == "encoder-decoder":
        return config.data.max_length or 512
    return max(model_limit(base) - config.eval.max_new_tokens, 1)


def refuse_long_answers(config: Config, task: Task, base: Any) -> None:
    """Raises ConfigError if no question fits before answers so long."""
    limit = model_limit(base)
    if task.output == "text" and base.family == "decoder" and config.eval.max_new_tokens >= limit:
        problem = f"{base.name} reads {limit} tokens: no question would fit before the answer"
        raise ConfigError(problem, "lower it", "eval.max_new_tokens")


def max_length(wanted: int | None, task: Task, base: Any) -> int:
    """Tokens an example may have. Raises ConfigError if the model reads fewer than asked for."""
    limit = model_limit(base)
    if wanted is not None and wanted > limit:
        raise ConfigError(f"{base.name} reads at most {limit} tokens, not {wanted}", "lower it", "data.max_length")
    return wanted or min(task.default_max_length, limit)


def encode_split(
    name: str,
    examples: Sequence[Example],
    task: Task,
    tokenizer: Any,
    data: DataConfig,
    length: int,
    ledger: Ledger,
    key: str | None = None,
) -> Split:
    """Apply the policies for long and unusable rows.

    Args:
        key: what the examples depend on beside task and tokenizer; with it, many rows are kept in the cache.

    Raises DataError: a label unknown to training, an unusable or too long row where the policy is ``error``,
    no usable row left.
    """
    if data.on_long == "window" and task.on_long != "window":
        raise ConfigError(f"task {task.name} cannot cut a row into windows", "use truncate or drop", "data.on_long")
    given = Rows.of(examples)

    def encode(begin: int, end: int) -> Part:
        return _encode_part(begin, given[begin:end], task, tokenizer, data, length)

    part = encode_all(encode, len(given), _key(key, name, task, tokenizer, data, length))
    if part.error is not None:
        raise part.error
    copies = _settle_copies(part, given)
    for where, number in Counter(map(given.where, copies)).items():
        ledger.mark(where, "augmented", number, split=name)
    split = Split(given.take(part.kept), part.rows, copies=len(copies))
    dropped = []
    for place, event, words, count in part.events:
        where = given.where(place)
        if event in ("dropped:bad", "dropped:too_long"):
            ledger.move(where, event, words, split=name)
            if event == "dropped:too_long":
                dropped.append(where)
                split.too_long += 1
        elif event != "copy":
            ledger.mark(where, event, count, split=name)
            split.truncated += event == "truncated"
            split.windows += (count - 1) * (event == "windows")
    _check_usable(name, split, dropped, length, data)
    return split


def _settle_copies(part: Part, given: Rows) -> set[int]:
    """Places of the augmented copies that are used; those go whose row was dropped."""
    copies = {place for place, event, *_ in part.events if event == "copy"}
    if not copies:
        return copies
    used = {given.place(place) for place in part.kept if place not in copies}
    orphans = {place for place in copies if given.place(place) not in used}
    if orphans:
        numbers = {number: place for number, place in enumerate(part.kept) if place not in orphans}
        rows = [row for row in part.rows if row.row in numbers]
        part.kept = list(numbers.values())
        places = {number: new for new, number in enumerate(numbers)}
        for row in rows:
            row.row = places[row.row]
        part.rows = rows
    return copies - orphans


def _key(key: str | None, name: str, task: Task, tokenizer: Any, data: DataConfig, length: int) -> str | None:
    """All that the encoded rows depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if key is None or backend is None:
        return None
    parts = [key, name, task.name, repr(task.config), repr(task.state()), repr(task.soft), data.model_dump_json()]
    parts += [backend.to_str(), repr(tokenizer.special_tokens_map), repr(tokenizer.chat_template), str(length)]
    return "\0".join(parts)


def _encode_part(begin: int, given: Rows, task: Task, tokenizer: Any, data: DataConfig, length: int) -> Part:
    """Examples from place ``begin`` on; ``Encoded.row`` is counted from 0."""
    part = Part()
    rows: list[Encoded] = []
    examples = list(given)
    problems = [task.check(example) for example in examples]
    good = [example for example, problem in zip(examples, problems, strict=True) if not problem]
    found = iter(soft.encode_all(task, good, tokenizer, length))
    for place, (example, problem) in enumerate(zip(examples, problems, strict=True), begin):
        made = DataError(problem, _DROP, example.where) if problem else next(found)
        if example.copy:
            # the policies are about rows of the file: a copy that does not fit is left out, and not counted
            if isinstance(made, DataError) or _is_useless(made) or (_is_long(made) and data.on_long in _STRICT):
                continue
            part.events.append((place, "copy", "", 1))
            made = made[:1] if data.on_long == "truncate" else made
            _keep(part, rows, place, made)
            continue
        if isinstance(made, DataError):
            if data.on_bad_row == "error":
                return Part(error=made)
            part.events.append((place, "dropped:bad", made.problem, 0))
            continue
        long = _is_long(made)
        if long and data.on_long == "error":
            hint = "raise data.max_length or set data.on_long=truncate"
            return Part(error=DataError(f"longer than {length} tokens", hint, example.where))
        useless = _is_useless(made)
        if useless or (long and data.on_long == "drop"):
            reason = "no supervised token is left" if useless else f"longer than {length} tokens"
            part.events.append((place, "dropped:too_long", reason, 0))
            continue
        if data.on_long == "truncate" and len(made) > 1:
            made = made[:1]
        if long and len(made) == 1:
            part.events.append((place, "truncated", "", 1))
        if len(made) > 1:
            part.events.append((place, "windows", "", len(made)))
        _keep(part, rows, place, made)
    part.rows = rows
    return part


def _is_long(rows: Sequence[Encoded]) -> bool:
    return len(rows) > 1 or rows[0].truncated


def _is_useless(rows: Sequence[Encoded]) -> bool:
    return rows[0].labels is not None and not any(row.supervised for row in rows)


def _keep(part: Part, rows: list[Encoded], place: int, made: Sequence[Encoded]) -> None:
    for row in made:
        row.row = len(part.kept)
    part.kept.append(place)
    rows += made


def _check_usable(name: str, split: Split, dropped: list[str], length: int, data: DataConfig) -> None:
    if not len(split.examples):
        if dropped:
            raise DataError(
                f"no usable {name} row: all {len(dropped)} are longer than data.max_length={length} tokens",
                "raise data.max_length",
                dropped[0],
            )
        raise DataError(f"no usable {name} row", "tunery check says why each was dropped")
    if split.truncated == len(split.sources) and data.on_long == "auto":
        raise DataError(
            f"all {split.truncated} {name} rows are longer than data.max_length={length} tokens",
            "raise data.max_length, or set data.on_long=truncate if you mean it",
            split.examples.where(0),
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
    example = probe_example(stored)
    if soft.encode(task, example, tokenizer, stored["max_length"])[0].ids != stored["ids"]:
        raise ModelError(
            "tokenizer or template give other token ids than at training",
            "use the tokenizer files and the version of transformers named in the run's manifest.json",
            where,
        )


def probe_example(stored: dict[str, Any]) -> Example:
    """The example that ``probe`` stored."""
    from tunery.protocols import Message

    fields = dict(stored["example"])
    fields["messages"] = tuple(Message(**m) for m in fields["messages"])
    for key in ("label", *_SEQUENCES):
        if isinstance(fields.get(key), list):
            fields[key] = tuple(fields[key])
    return Example(**fields)


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
