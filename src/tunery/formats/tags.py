"""Sentences with a tag for each word: named entities, parts of speech."""

from __future__ import annotations

from typing import Any

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Format, Row


class Tags(Format):
    """``{"words": ["Anna", "lives", "in", "London"], "tags": ["B-PER", "O", "O", "B-LOC"]}``.

    Text with spaces stands for a list as well (``"B-PER O O B-LOC"``). Chinese is usually given by characters:
    ``{"words": ["北", "京"], "tags": ["B-LOC", "I-LOC"]}``. Files with one word and tag a line and a blank line
    between sentences (CoNLL) are read, too.
    """

    summary = "sentences as lists of words (or characters) with a tag each: BIO, CoNLL files"
    columns = ("words", "tags")
    targets = ("tags",)
    task = "tag"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: blank or wrong cells, another number of tags than of words."""
        words = _items(row, "words")
        tags = () if not need_target and cells.absent(row, "tags") else _items(row, "tags")
        if tags and len(tags) != len(words):
            problem = f"{len(words)} words and {len(tags)} tags (columns 'words' and 'tags')"
            raise DataError(problem, "give every word one tag, O where it belongs to nothing", row.where)
        return Example(row.file, row.line, words=words, tags=tags)


def _items(row: Row, column: str) -> tuple[str, ...]:
    if cells.absent(row, column):
        raise cells.missing(row, column, "a list of texts")
    value: Any = cells.unpacked(row.values[column])
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, list):
        raise cells.wrong(row, column, value, "a list of texts")
    if not items:
        raise DataError(f"column {column!r} is an empty list", "remove the row", row.where)
    for item in items:
        if not isinstance(item, str) or not item:
            hint = "write tags by name (B-PER, O)" if column == "tags" else "quote it, or remove it with its tag"
            problem = f"column {column!r} has {cells.describe(item)} in its list, text is needed"
            raise DataError(problem, hint, row.where)
    return tuple(items)
