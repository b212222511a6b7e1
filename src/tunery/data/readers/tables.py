"""CSV and TSV: a header, then one record a row; quoted cells may hold separators, quotes and line ends."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tunery.data.readers import UTF8_HINT, BadRow, Record, not_utf8
from tunery.errors import DataError
from tunery.protocols import Row

_QUOTED = re.compile(r'"[^"]*"')
_UNDECODED = re.compile("[\udc80-\udcff]")  # how "surrogateescape" keeps a byte that is not UTF-8
_LIMIT = 2**31 - 1  # characters in a cell; csv's own limit of 131,072 is less than a long document


def read(path: Path, name: str) -> Iterator[Record]:
    """All values are text. Raises DataError: unusable header, a quote that is never closed."""
    csv.field_size_limit(_LIMIT)
    # newline="" leaves the line ends inside of quoted cells alone
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        # strict: a quote in the wrong place is an error, not a guess that swallows the rows after it
        table = csv.reader(stream, delimiter=_delimiter(path, stream), strict=True)
        header = _header(table, name)
        while True:
            line = table.line_num + 1
            where = f"{name}:{line}"
            try:
                cells = next(table, None)
            except csv.Error as error:
                yield _broken(error, name, line, table.line_num)
                continue
            if cells is None:
                return
            if not any(cells):
                continue  # blank line, or the empty rows that spreadsheets append
            if _UNDECODED.search("".join(cells)):
                yield not_utf8(where)
            elif len(cells) != len(header):
                yield BadRow(where, f"{len(cells)} cells, the header has {len(header)}", 'put cells with commas in "…"')
            else:
                yield Row({key: cell for key, cell in zip(header, cells, strict=True) if key}, name, line)


def _delimiter(path: Path, stream: TextIO) -> str:
    """Tab for .tsv; otherwise what the header is separated by (spreadsheets in many countries write ``;``)."""
    first = _QUOTED.sub("", stream.readline())
    stream.seek(0)
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    return next((mark for mark in ",\t;" if mark in first), ",")


def _header(table: Any, name: str) -> list[str]:
    """Names of the columns; a column without a name (the index of pandas) is left out of the rows."""
    where = f"{name}:1"
    try:
        cells: list[str] = next((cells for cells in table if any(cells)), [])
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", "the first line names the columns", where) from None
    header = [cell.strip() for cell in cells]
    if any(_UNDECODED.search(cell) for cell in header):
        raise DataError("not UTF-8 text", UTF8_HINT, where)
    named = [cell for cell in header if cell]
    twice = sorted({cell for cell in named if named.count(cell) > 1})
    if twice:
        raise DataError(f"two columns are called {twice[0]!r}", "rename one of them", where)
    return header


def _broken(error: csv.Error, name: str, first: int, last: int) -> BadRow:
    """Raises DataError if a quote is open to the end of the file: the rows in it cannot be told apart."""
    hint = 'write quotes inside of a cell twice (""), or save the data as JSONL'
    if "unexpected end of data" in str(error):
        raise DataError("a quote is opened and never closed", hint, f"{name}:{first}")
    place = "" if last <= first else f" in lines {first} to {last}"
    return BadRow(f"{name}:{first}", f"broken quotes{place}: {error}", hint)
