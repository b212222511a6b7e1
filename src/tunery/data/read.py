"""Files → rows: JSONL, JSON, CSV, TSV, CoNLL and plain text, each row with the place it came from.

>>> for record in read(["reviews.csv"]):  # doctest: +SKIP
...     print(record.where, isinstance(record, BadRow))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tunery.data.readers import BadRow, Record, conll, jsons, plain, tables
from tunery.errors import DataError

__all__ = ["BadRow", "Record", "paths", "read"]

Reader = Callable[[Path, str], Iterator[Record]]
READERS: dict[str, Reader] = {
    ".jsonl": jsons.read,
    ".json": jsons.read,
    ".ndjson": jsons.read,
    ".csv": tables.read,
    ".tsv": tables.read,
    ".tab": tables.read,
    ".txt": plain.read,
    ".conll": conll.read,
    ".bio": conll.read,
}
_HEAD = 4096  # bytes looked at to tell text from anything else
FileNames = str | Path | Sequence[str | Path]


def paths(files: FileNames) -> list[str]:
    """One file or several → their names as the user gave them."""
    return [str(files)] if isinstance(files, str | Path) else [str(file) for file in files]


def read(files: FileNames) -> Iterator[Record]:
    """Rows of one or several files in order, and a BadRow for each row that cannot be read.

    Raises DataError. At once: no such file, a folder, an empty file, not a text file, unknown kind.
    While reading: a file whose structure is broken (header, array, open quote) or that holds no row at all.
    """
    chosen = [(_reader(name), name) for name in paths(files)]
    return _rows(chosen)


def _rows(chosen: list[tuple[Reader, str]]) -> Iterator[Record]:
    for reader, name in chosen:
        found = False
        try:
            for record in reader(Path(name), name):
                found = True
                yield record
        except OSError as error:
            raise _unreadable(error, name) from None
        if not found:
            raise DataError("no rows in this file", "one row at least is needed", name)


def _reader(name: str) -> Reader:
    path = Path(name)
    try:
        if path.is_dir():
            raise DataError("a folder, not a file", "name the files in it", name)
        if not path.exists():
            raise DataError("no such file", f"looked in {Path.cwd()}", name)
        if not path.is_file():
            raise DataError("not a regular file", "save it to a file first", name)
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(error, name) from None
    if not head.strip():
        raise DataError("the file is empty", "one row at least is needed", name)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("UTF-16 text", "save the file as UTF-8 (iconv -f UTF-16 -t UTF-8 FILE > NEW)", name)
    known = f"known: {' '.join(READERS)}"
    if b"\0" in head or head.startswith((b"PK\x03\x04", b"\x1f\x8b", b"PAR1")):
        raise DataError("not a text file", f"unpack it, or save it as CSV or JSONL; {known}", name)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
            raise DataError(f"unknown kind of file {path.suffix or path.name!r}", known, name)
        reader = jsons.read
    return reader


def _unreadable(error: OSError | ValueError, name: str) -> DataError:
    number = getattr(error, "errno", None)
    return DataError(
        f"cannot be read: {os.strerror(number) if number else error}", "check the path and its rights", name
    )
