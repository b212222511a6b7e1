"""Records of a file → examples, one by one: the columns are settled once, then every record stands for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from tunery import registry
from tunery.config import DataConfig
from tunery.data import labels
from tunery.data.columns import Columns, resolve
from tunery.data.read import BadRow, Record, Records
from tunery.errors import DataError
from tunery.protocols import Example, Format, Row
from tunery.run.cleaning import Cleaned, Cleaning

SNIFFED = 100  # rows whose columns are looked at before the format is decided


@dataclass(slots=True)
class Taker:
    """How the records of some files become examples."""

    columns: Columns
    reader: Format
    data: DataConfig
    need_target: bool
    column: str | None
    """``data.group`` or ``data.time``, where rows are to be divided by it."""
    cleaning: Cleaning | None = None
    cleaned: Cleaned = field(default_factory=Cleaned)

    @classmethod
    def of(
        cls,
        seen: Sequence[str],
        data: DataConfig,
        format_name: str | None,
        formats: Sequence[str] | None,
        need_target: bool,
        where: str,
        cleaning: Cleaning | None = None,
        other: bool = False,
    ) -> Taker:
        """``seen``: the columns of the file. Raises DataError: no format fits, a column is missing.

        ``other``: this file may call its columns otherwise than the training file, whose names ``data.columns`` has.
        """
        mapping = {known: name for known, name in data.columns.items() if not other or name in seen}
        columns = resolve(seen, mapping, name=format_name, allowed=formats, need_target=need_target, where=where)
        column = (data.group or data.time) if need_target else None
        if column and column not in seen:
            hint = registry.near(column, list(seen))
            raise DataError(f"no column {column!r} (data.group, data.time)", hint, where)
        return cls(columns, registry.get("format", columns.format)(), data, need_target, column, cleaning)

    def take(self, record: Record) -> Iterator[Example | BadRow]:
        """The examples that a record is, in order; nothing for one that cleaning leaves out."""
        if isinstance(record, BadRow):
            yield record
            return
        try:
            rows = tuple(self.reader.rows(_renamed(record, self.columns.rename)))
        except DataError as error:
            yield self._bad(error)
            return
        for row in rows:
            try:
                example = self._example(row)
            except DataError as error:
                yield self._bad(error)
                continue
            if example is not None:
                yield example

    def _example(self, row: Row) -> Example | None:
        row = labels.split(row, self.data.label_separator)
        example = labels.renamed(self.reader.example(row, self.need_target), self.data.labels, self.need_target)
        if self.column:
            example = replace(example, group=_group(row, self.column))
        if self.cleaning is None:
            return example
        return self.cleaning.row(example, self.cleaned, leave_out=self.need_target)

    def _bad(self, error: DataError) -> BadRow:
        return BadRow(error.where, _in_file_words(error.problem, self.columns.rename), error.hint)


def to_predict(stream: Records, data: DataConfig) -> Iterator[Example | BadRow]:
    """Rows without targets, in order and one by one, as ``data.format``, ``data.columns`` and ``data.clean`` say.

    Raises DataError: a file cannot be read, or its columns do not fit.
    """
    head, seen, first = begin(stream)
    if first is None:  # all rows are bad
        yield from (record for record in head if isinstance(record, BadRow))
        return
    taker = Taker.of(seen, data, data.format, None, False, first.where, Cleaning(data.clean), other=True)
    for record in chain(head, stream):
        yield from taker.take(record)
        taker.cleaned = Cleaned()  # what cleaning changed is not told, and would fill the memory


def begin(stream: Iterator[Record]) -> tuple[list[Record], list[str], Row | None]:
    """The first records, all columns of the rows among them in order, and the first row."""
    head: list[Record] = []
    columns: dict[str, None] = {}
    first: Row | None = None
    rows = 0
    for record in stream:
        head.append(record)
        if isinstance(record, Row):
            rows += 1
            first = first or record
            columns.update(dict.fromkeys(record.values))
            if rows == SNIFFED:
                break
    return head, list(columns), first


def _renamed(row: Row, rename: dict[str, str]) -> Row:
    """The row with the names tunery knows. A mapped column replaces one that has the name already."""
    moved = {known: row.values[column] for column, known in rename.items() if column in row.values} if rename else {}
    if not moved:
        return row
    kept: dict[str, Any] = {name: value for name, value in row.values.items() if name not in rename}
    return Row(kept | moved, row.file, row.line)


def _group(row: Row, column: str) -> str:
    """Raises DataError if the row has no such column."""
    value = row.values.get(column)
    if value is None or str(value).strip() == "":
        names = [str(name) for name in row.values]
        hint = "fill it in" if column in names else registry.near(column, names)
        raise DataError(f"column {column!r} (data.group, data.time) is missing", hint, row.where)
    return str(value)


def _in_file_words(problem: str, rename: dict[str, str]) -> str:
    """Name the column as the file does."""
    for column, known in rename.items():
        problem = problem.replace(f"column {known!r}", f"column {column!r} ({known})")
    return problem
