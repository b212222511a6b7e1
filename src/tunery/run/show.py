"""The tokens of encoded examples as people can read them, with what is supervised."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from tunery import registry
from tunery.config import Config
from tunery.data import soft
from tunery.errors import ConfigError, DataError
from tunery.protocols import IGNORE, SOFT, Encoded, Example
from tunery.run.check import Inspection, inspect
from tunery.run.dataset import SPLITS

BROKEN = "\ufffd"
"""What a decoder puts where the bytes of a character are not complete."""
MOST_PIECES = 16  # tokens that are held back for a character to become complete


def show(config: Config, rows: int, split: str = "train") -> dict[str, Any]:
    """The first ``rows`` encoded rows of a split: what ``tunery show --json`` prints.

    A long document of task lm is several rows. Rows that cannot be used are left out (``check`` tells about them).

    Raises ConfigError: no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}", registry.near(split, list(SPLITS)), "--split")
    found = inspect(config)
    if split not in found.dataset.splits:
        hint = f"there are: {', '.join(found.dataset.splits)}; or set data.{split}=FILE"
        raise ConfigError(f"no {split} rows", hint, "--split")
    shown: list[dict[str, Any]] = []
    for example, row in _encoded(found, split):
        if len(shown) == rows:
            break
        shown.append(_record(example, row, found))
    return {
        "split": split,
        "task": found.task.name,
        "format": found.dataset.format,
        "model": found.base.name,
        "max_length": found.length,
        "rows": shown,
        "notes": found.dataset.notes,
    }


def _encoded(found: Inspection, split: str) -> Iterator[tuple[Example, Encoded]]:
    for example in found.dataset.splits[split]:
        if found.task.check(example):
            continue
        try:
            rows = soft.encode(found.task, example, found.base.tokenizer, found.length)
        except DataError:
            continue
        for row in rows:
            yield example, row


def _record(example: Example, row: Encoded, found: Inspection) -> dict[str, Any]:
    return {
        "where": example.where,
        "tokens": tokens(row, found.base.tokenizer),
        "supervised": row.supervised,
        "target": _target(example, row),
        "truncated": row.truncated,
    }


def _target(example: Example, row: Encoded) -> Any:
    """What is to be found, where no token of the row says so by itself."""
    if row.tags is not None:
        return list(example.tags)
    if row.span is not None and row.target is None:
        return example.references[0] if row.span != (0, 0) else ""
    return None if row.target is None else example.label


def _flags(row: Encoded) -> list[bool] | None:
    """Which tokens are predicted, or pointed to; None for tasks that score a row as a whole."""
    if row.answer is not None:
        return [False] * len(row.ids) + [True] * len(row.answer)
    if row.span is not None:
        return [row.span[0] <= place <= row.span[1] for place in range(len(row.ids))]
    marks = row.labels if row.labels is not None else row.tags
    return None if marks is None else [mark != IGNORE for mark in marks]


def tokens(row: Encoded, tokenizer: Any) -> list[dict[str, Any]]:
    """``{"id", "text", "supervised", "special"}`` for each token; the texts joined are the text of the row, with
    "[soft 0]" and so on where soft tokens are.

    A character whose bytes are spread over several tokens stands whole at the last of them, the others have
    the text "". ``supervised`` is None for tasks that score a row as a whole. What an encoder-decoder writes follows
    what it reads.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    special |= {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i != tokenizer.unk_token_id
    }
    flags, ids = _flags(row), [*row.ids, *(row.answer or ())]
    texts: list[str] = []
    for is_soft, part in groupby(range(len(ids)), key=lambda n: ids[n] >= SOFT):
        places = list(part)
        cut = slice(places[0], places[-1] + 1)
        if is_soft:
            texts += [f"[soft {i - SOFT}]" for i in ids[cut]]
        else:
            texts += pieces(ids[cut], tokenizer, special, flags and flags[cut])
    return [
        {
            "id": i,
            "text": text,
            "supervised": None if flags is None else flags[n],
            "special": i in special or i >= SOFT,
        }
        for n, (i, text) in enumerate(zip(ids, texts, strict=True))
    ]


def pieces(ids: Sequence[int], tokenizer: Any, special: set[int], flags: Sequence[bool] | None) -> list[str]:
    """The text that each token adds to those before it.

    Tokens are decoded together with the ones before, as spaces depend on them; they are held back until their
    characters are complete, but never past a special token or the edge of what is supervised.
    """
    texts = [""] * len(ids)
    before = begun = 0  # ids[before:begun] are decoded already and only context
    for n in range(len(ids)):
        if begun < n and (ids[n] in special or (flags is not None and flags[n] != flags[n - 1])):
            texts[n - 1] = _added(ids, before, begun, n, tokenizer)
            before, begun = begun, n
        text = _added(ids, before, begun, n + 1, tokenizer)
        if not text.endswith(BROKEN) or n + 1 == len(ids) or n - begun >= MOST_PIECES:
            texts[n] = text
            before, begun = begun, n + 1
    return texts


def _added(ids: Sequence[int], before: int, begun: int, end: int, tokenizer: Any) -> str:
    context, whole = (
        str(tokenizer.decode(ids[before:stop], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for stop in (begun, end)
    )
    if whole.startswith(context):
        return whole[len(context) :]
    return str(tokenizer.decode(ids[begun:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))
