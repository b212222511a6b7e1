"""Soft tokens in text and in rows: ``[soft:n]`` in templates, and where they go if a template has none.

A marker counts only in the source of a template, never in data. There it becomes private characters of Unicode's
plane 16, one a soft token, which go through any rendering; the tokeniser sees the pieces between them, and each
becomes the id ``SOFT + number``. Numbers run through the template's source, so that a turn which the template
repeats repeats its soft tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tunery.errors import ConfigError, DataError
from tunery.protocols import SOFT, Encoded, Example, Position, SoftPlacement, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKER = re.compile(r"\[soft:([^\[\]]*)\]")
FIRST = 0x100000
"""The character of soft token 0."""
MOST = 4096
LEAST_ROOM = 8
"""Tokens of text that must fit beside the soft ones."""


# ---------------------------------------------------------------------------------------------- templates


def _numbers(template: str) -> list[int]:
    """Soft tokens of each marker. Raises ConfigError for one that cannot be read."""
    numbers = [int(found) if re.fullmatch(r"\d{1,6}", found) else 0 for found in MARKER.findall(template)]
    if 0 in numbers or sum(numbers) > MOST:
        raise ConfigError(
            f"a marker [soft:n] needs a number from 1, {MOST} in all at most",
            'for example "[soft:3] {text} [soft:3] {label}"',
            "task.template",
        )
    return numbers


def count(template: str) -> int:
    """Soft tokens a template asks for.

    >>> count("[soft:3] {text} [soft:2]")
    5
    """
    return sum(_numbers(template))


def compiled(template: str) -> str:
    """The template with its markers as private characters, one a soft token. Raises ConfigError."""
    characters = (chr(FIRST + i) for i in range(count(template)))
    return MARKER.sub(lambda found: "".join(next(characters) for _ in range(int(found[1]))), template)


def without(template: str) -> str:
    """The template for programs that know no soft tokens."""
    return MARKER.sub("", template)


def is_soft(character: str, soft: int) -> bool:
    """Whether this is one of ``soft`` soft tokens."""
    return FIRST <= ord(character) < FIRST + soft


def tokenise(
    text: str, tokenizer: PreTrainedTokenizerBase, soft: int = 0, special: bool = False
) -> tuple[list[int], list[tuple[int, int]]]:
    """Rendered text, of a template with ``soft`` soft tokens → ids, and [start, end) of each in the text.

    Args:
        special: with what the tokenizer puts around a text; their places are (0, 0).
    """
    before, behind = added(tokenizer) if special else ((), ())
    ids, places = list(before), [(0, 0)] * len(before)
    for begun, piece in _pieces(text, soft):
        if is_soft(piece[0], soft):
            ids.append(SOFT + ord(piece) - FIRST)
            places.append((begun, begun + 1))
        else:
            encoded: Any = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            ids += encoded["input_ids"]
            places += [(begun + start, begun + end) for start, end in encoded["offset_mapping"]]
    return ids + list(behind), places + [(0, 0)] * len(behind)


def _pieces(text: str, soft: int) -> Iterator[tuple[int, str]]:
    """Text cut at its soft tokens → start, piece; a soft token is a piece of one character."""
    begun = 0
    for place, character in enumerate(text) if soft else ():
        if is_soft(character, soft):
            if begun < place:
                yield begun, text[begun:place]
            yield place, character
            begun = place + 1
    if begun < len(text):
        yield begun, text[begun:]


def refuse_in_data(example: Example, soft: int) -> None:
    """Raises DataError if the row itself has one of the characters that stand for ``soft`` soft tokens."""
    texts = [message.content for message in example.messages]
    texts += [example.text, example.text_pair or "", *example.words]
    if soft and any(is_soft(character, soft) for text in texts for character in text if character >= chr(FIRST)):
        raise DataError(
            f"the row has a private character (U+{FIRST:X} to U+{FIRST + soft - 1:X}) that stands for a soft token",
            "remove it, or the [soft:n] of task.template",
            example.where,
        )


# --------------------------------------------------------------------------------------- rows and prompts


def plan(
    task: Task, tokenizer: PreTrainedTokenizerBase, tokens: int | None, position: Position | None, default: int
) -> int:
    """How many soft tokens a method learns: those of the template, or else ``tokens`` of its own, which the task is
    told to put in.

    Raises ConfigError: both are given, or the task has no such position.
    """
    marked = task.soft_tokens(tokenizer)
    if marked:
        given = [key for key, value in (("tokens", tokens), ("position", position)) if value not in (None, marked)]
        if given:
            problem = f"the template says itself that it has {marked} soft tokens, and where"
            raise ConfigError(problem, f"leave method.{given[0]} out, or [soft:n] out of it", f"method.{given[0]}")
        return marked
    chosen = position or task.soft_positions[0]
    if chosen not in task.soft_positions:
        problem = f"task {task.name} has no place {chosen!r} for soft tokens"
        raise ConfigError(problem, f"use {' or '.join(task.soft_positions)}", "method.position")
    task.soft = SoftPlacement(tokens or default, chosen)
    return task.soft.tokens


def in_front(task: Task, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every row begins with all soft tokens, with no BOS or [CLS] before them."""
    return task.soft is not None and task.soft.position == "before" and not added(tokenizer)[0]


def encode(task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """``task.encode`` with the soft tokens in place; rows have ``max_length`` tokens at most, soft ones included.

    Raises what ``task.encode`` raises, ConfigError if the soft tokens leave no room.
    """
    refuse_in_data(example, task.soft_tokens(tokenizer))
    placed = task.soft
    if placed is None:
        return task.encode(example, tokenizer, max_length)
    rows = task.encode(example, tokenizer, _room(placed, max_length))
    for row in rows:
        row.insert(_place(placed, task, example, tokenizer, row.ids), _ids(placed))
    return rows


def encode_all(
    task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[list[Encoded] | DataError]:
    """``encode`` of many examples; a row that cannot be encoded has its error in its place."""
    if task.soft is None and not task.soft_tokens(tokenizer):
        try:
            return list(task.encode_all(examples, tokenizer, max_length))
        except DataError:  # one by one tells which
            pass
    found: list[list[Encoded] | DataError] = []
    for example in examples:
        try:
            found.append(encode(task, example, tokenizer, max_length))
        except DataError as error:
            found.append(error)
    return found


def prompt(task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
    """``task.prompt`` with the soft tokens in place. Raises as ``encode``."""
    refuse_in_data(example, task.soft_tokens(tokenizer))
    placed = task.soft
    if placed is None:
        return task.prompt(example, tokenizer, max_length)
    ids = task.prompt(example, tokenizer, _room(placed, max_length))
    at = _place(placed, task, example, tokenizer, ids)
    return [*ids[:at], *_ids(placed), *ids[at:]]


def _ids(placed: SoftPlacement) -> range:
    return range(SOFT, SOFT + placed.tokens)


def _room(placed: SoftPlacement, max_length: int) -> int:
    if max_length - placed.tokens < LEAST_ROOM:
        raise ConfigError(
            f"{placed.tokens} soft tokens leave no room for text in rows of {max_length} tokens",
            "lower it, or raise data.max_length",
            "method.tokens",
        )
    return max_length - placed.tokens


def _place(
    placed: SoftPlacement, task: Task, example: Example, tokenizer: PreTrainedTokenizerBase, ids: list[int]
) -> int:
    """The position in ``ids``, of a row or of its prompt, before which the soft tokens go."""
    first, last = added(tokenizer)
    if placed.position == "before":
        return len(first) if first and tuple(ids[: len(first)]) == first else 0
    at = task.soft_at(placed.position, example, tokenizer)
    if at is not None:
        return min(at, len(ids))
    return len(ids) - len(last) if last and tuple(ids[-len(last) :]) == last else len(ids)


@lru_cache(maxsize=4)
def added(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Special tokens that the tokenizer puts before and behind a plain text: BOS or [CLS], EOS or [SEP]."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
    inner = [i for i, flag in enumerate(special) if not flag]
    first, last = (inner[0], inner[-1] + 1) if inner else (0, len(ids))
    return tuple(ids[:first]), tuple(ids[last:])
