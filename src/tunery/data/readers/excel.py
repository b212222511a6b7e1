"""Excel workbooks (.xlsx): a header, then one record a row, at the row number that Excel shows.

Formulas are never evaluated: such a cell is its text. Dates become ISO text; numbers and booleans stay what they are.
"""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from typing import Any

from tunery.data.readers import BadRow, Record
from tunery.data.source import FREE, RATIO, Source
from tunery.errors import DataError
from tunery.protocols import Row

_ROWS = 1 << 20  # Excel's own limit; a damaged file may claim any number


def read(source: Source) -> Iterator[Record]:
    """Raises DataError: not a workbook, no such sheet, an unusable header, or the extra is missing."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise DataError(
            "Excel files need the package openpyxl", "pip install 'tunery[excel]', or save as CSV", source.name
        ) from None
    try:
        path = source.local()
        _check_size(source)
        book = load_workbook(path, read_only=True, keep_links=False)
        try:
            yield from _rows(_sheet(book, source), source)
        finally:
            book.close()
    except (DataError, GeneratorExit, MemoryError):
        raise
    except Exception as error:  # the package raises whatever its parsers do
        raise DataError(
            f"not a readable Excel workbook: {type(error).__name__}", "open it and save it again as .xlsx", source.name
        ) from None


def _check_size(source: Source) -> None:
    """A workbook is a packed folder: what it becomes is bounded."""
    with zipfile.ZipFile(source.local()) as folder:
        size = sum(member.file_size for member in folder.infolist())
    if size > max(FREE, RATIO * source.local().stat().st_size):
        raise DataError(f"unpacks to more than {RATIO} times its size", "save it again as .xlsx or CSV", source.name)


def _sheet(book: Any, source: Source) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    names = ", ".join(sheets)
    file = source.name.removesuffix(f"#{source.sheet}")
    if source.sheet:
        if source.sheet not in sheets:
            raise DataError(f"no sheet {source.sheet!r}", f"there are: {names}", source.name)
        return sheets[source.sheet]
    seen = [title for title, sheet in sheets.items() if sheet.sheet_state == "visible"] or list(sheets)
    if not seen:
        raise DataError("no sheet of cells in this workbook", "save it as CSV", source.name)
    if len(sheets) > 1:
        source.say(f"the sheet {seen[0]!r} of {names} is read ({file}#NAME for another)")
    return sheets[seen[0]]


def _rows(sheet: Any, source: Source) -> Iterator[Record]:
    sheet.reset_dimensions()  # what the file says of its size need not be true
    header: list[str] = []
    formula = None
    for number, cells in enumerate(sheet.iter_rows(max_row=_ROWS), 1):
        values = [_value(cell) for cell in cells]
        if all(value is None or value == "" for value in values):
            continue
        if not header:
            header = _header(values, f"{source.name}:{number}")
            continue
        formula = formula or next((cell for cell in cells if cell.data_type == "f"), None)
        yield _row(header, cells, values, source, number)
    if formula is not None:
        source.say(f"formulas are not evaluated but read as their text, the first in {formula.coordinate}")


def _header(values: list[Any], where: str) -> list[str]:
    """Names of the columns; one without a name is left out of the rows."""
    header = ["" if value is None else str(value).strip() for value in values]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"two columns are called {twice!r}", "rename one of them", where)
    return header


def _row(header: list[str], cells: Any, values: list[Any], source: Source, number: int) -> Record:
    where = f"{source.name}:{number}"
    if any(value is not None for value in values[len(header) :]):
        return BadRow(where, f"{len(values)} cells, the header has {len(header)}", "give every column a name")
    for name, cell, value in zip(header, cells, values, strict=False):
        if name and cell.data_type == "e":
            return BadRow(where, f"the cell {cell.coordinate} holds the error {value}", "correct the formula")
    values = values + [None] * (len(header) - len(values))
    return Row({name: value for name, value in zip(header, values, strict=False) if name}, source.name, number)


def _value(cell: Any) -> Any:
    value = cell.value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime.datetime):
        # a date without a time of day is a date
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(getattr(value, "text", value))  # an array formula, a duration
