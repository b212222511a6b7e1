"""CSV and TSV: a header, then one record a row; quoted cells may hold separators, quotes and line ends."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from tunery.data.columns import familiar
from tunery.data.readers import BadRow, Record, broken_text, undecodable, zero_byte
from tunery.data.source import Source
from tunery.errors import DataError
from tunery.protocols import Row

_QUOTED = re.compile(r'"[^"]*"')
_DAMAGED = re.compile("[\0\udc80-\udcff]")  # the latter: how "surrogateescape" keeps a byte that cannot be decoded
_SEPARATOR = re.compile(r"sep=([,;\t|])[\r\n]*")  # a first line that Excel writes and reads
_LIMIT = 2**31 - 1  # characters in a cell; csv's own limit of 131,072 is less than a long document
_LOOKED_AT = 20  # rows of a .txt file
_MARKS = {",": "commas", "\t": "tabs", ";": "semicolons"}


def read(source: Source) -> Iterator[Record]:
    """All values are text. Raises DataError: unusable header."""
    name = source.name
    delimiter, skipped = _delimiter(source)
    with _text(source) as stream:
        lines = _Lines(stream)
        for _ in range(skipped):
            next(lines, None)
        table = _table(lines, delimiter)
        header = _header(table, source, 1 + skipped)
        while True:
            line = lines.count + 1
            lines.taken.clear()
            try:
                cells = next(table, None)
            except csv.Error as error:
                yield _broken(error, name, line, lines, len(header), delimiter)
                table = _table(lines, delimiter)
                continue
            if cells is None:
                return
            if not any(cells):
                continue  # blank line, or the empty rows that spreadsheets append
            if damaged := _DAMAGED.search("".join(cells)):
                yield zero_byte(source, line) if damaged[0] == "\0" else broken_text(source, line)
            elif len(cells) != len(header):
                problem = f"{len(cells)} cells, the header has {len(header)}"
                yield BadRow(f"{name}:{line}", problem, 'put cells with commas in "…"')
            else:
                yield Row({key: cell for key, cell in zip(header, cells, strict=True) if key}, name, line)


class _Lines:
    """The lines of a file, of which some can be given back."""

    def __init__(self, stream: Iterator[str]) -> None:
        self._stream = stream
        self._returned: deque[str] = deque()
        self.count = 0
        self.taken: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._stream)
        self.count += 1
        self.taken.append(line)
        return line

    def give_back(self, lines: list[str]) -> None:
        self.count -= len(lines)
        self._returned.extendleft(reversed(lines))


def looks(source: Source) -> bool:
    """Whether a text file is a table: every row has as many cells as the first, which names a column tunery knows.

    Says so, and also where only the names are missing: then the lines are texts.
    """
    for mark, called in _MARKS.items():
        with _text(source) as stream:
            try:
                rows = [cells for cells in islice(_table(stream, mark), _LOOKED_AT) if any(cells)]
            except csv.Error:
                continue
        if len(rows) < 2 or len(rows[0]) < 2 or any(len(cells) != len(rows[0]) for cells in rows):
            continue
        names = [cell.strip() for cell in rows[0]]
        if any(map(familiar, names)) and len(set(names)) == len(names):
            source.say(f"read as a table whose cells are separated by {called}")
            return True
        if mark == "\t":
            source.say("there are tabs in every line, but the first one does not name columns: read as plain text")
    return False


def _text(source: Source) -> io.TextIOWrapper:
    # newline="" leaves the line ends inside of quoted cells alone
    return io.TextIOWrapper(source.open(keep_cr=True), encoding="utf-8", errors="surrogateescape", newline="")


def _table(stream: Iterable[str], delimiter: str) -> Any:
    csv.field_size_limit(_LIMIT)
    # strict: a quote in the wrong place is an error, not a guess that swallows the rows after it
    return csv.reader(stream, delimiter=delimiter, strict=True)


def _delimiter(source: Source) -> tuple[str, int]:
    """Tab for .tsv; otherwise what the header is separated by (spreadsheets in many countries write ``;``), or what
    a line before it names. → separator, number of such lines.
    """
    with _text(source) as stream:
        first = stream.readline()
    if told := _SEPARATOR.fullmatch(first):
        return told[1], 1
    if source.suffix in (".tsv", ".tab"):
        return "\t", 0
    bare = _QUOTED.sub("", first)
    return next((mark for mark in ",\t;" if mark in bare), ","), 0


def _header(table: Any, source: Source, line: int) -> list[str]:
    """Names of the columns; a column without a name (the index of pandas) is left out of the rows."""
    where = f"{source.name}:{line}"
    try:
        cells: list[str] = next((cells for cells in table if any(cells)), [])
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", "the first line names the columns", where) from None
    header = [cell.strip() for cell in cells]
    if damaged := next((found for cell in header if (found := _DAMAGED.search(cell))), None):
        if damaged[0] == "\0":
            bad = zero_byte(source, line)
            raise DataError(bad.problem, bad.hint, where)
        raise DataError(*undecodable(source), where)
    named = [cell for cell in header if cell]
    twice = sorted({cell for cell in named if named.count(cell) > 1})
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}", "rename one of them", where)
    return header


def _broken(error: csv.Error, name: str, first: int, lines: _Lines, width: int, delimiter: str) -> BadRow:
    """A quote without its fellow swallows the rows behind it: they are read again, without the line it is in. Lines
    that are no rows by themselves were one cell and are left out with it.
    """
    hint = 'write quotes inside of a cell twice (""), or save the data as JSONL'
    behind = lines.taken[1:]
    if "unexpected end of data" in str(error):
        lines.give_back(behind)
        return BadRow(f"{name}:{first}", "a quote is opened and never closed", hint)
    if behind and _are_rows(behind, width, delimiter):
        lines.give_back(behind)
        return BadRow(f"{name}:{first}", "a quote is opened and not closed in its line", hint)
    place = f" in lines {first} to {first + len(behind)}" if behind else ""
    return BadRow(f"{name}:{first}", f"broken quotes{place}: {error}", hint)


def _are_rows(lines: list[str], width: int, delimiter: str) -> bool:
    """Whether each line is a row, and has no quote but around cells. The last may have the same fault as the first."""
    *rows, last = lines
    if last.lstrip().startswith('"') and _QUOTED.sub("", last).count('"') == 1:
        lines = rows
    if any('"' in _QUOTED.sub("", line) for line in lines):
        return False
    try:
        return width > 1 and all(len(cells) in (0, width) for cells in _table(lines, delimiter))
    except csv.Error:
        return False
