"""Files → rows: JSONL, JSON, CSV, TSV, Excel, Parquet, Arrow, CoNLL and plain text, each row with the place it came
from.

>>> for record in read(["reviews.csv"]):  # doctest: +SKIP
...     print(record.where, isinstance(record, BadRow))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tunery.data import encodings
from tunery.data.inputs import KINDS, FileNames, find, listed, unreadable
from tunery.data.readers import SKIPPED, BadRow, Record, arrow, conll, excel, jsons, parallel, plain, tables
from tunery.data.source import HEAD, Source
from tunery.errors import DataError

__all__ = ["READERS", "SKIPPED", "BadRow", "FileNames", "Record", "Records", "paths", "read"]

Reader = Callable[[Source], Iterator[Record]]
_READERS: dict[str, Reader] = {
    "json": jsons.read,
    "table": tables.read,
    "plain": plain.read,
    "conll": conll.read,
    "excel": excel.read,
    "arrow": arrow.read,
}
READERS = {suffix: _READERS[kind] for suffix, kind in KINDS.items()}
_BINARY = {
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",
    b"PK\x03\x04": ".xlsx",
}
_FOREIGN = {
    b"\xd0\xcf\x11\xe0": ("an old Excel file (.xls), or one with a password", "save it as .xlsx or CSV"),
    b"SQLite format": ("a database", "export the table as CSV"),
    b"%PDF": ("a PDF", "extract its text first"),
    b"7z\xbc\xaf": ("an archive", "unpack it"),
    b"BZh": ("packed with bzip2", "unpack it, or use gzip"),
    b"\xfd7zXZ": ("packed with xz", "unpack it, or use gzip"),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it, or use gzip"),
    b"\x80\x04": ("a pickle, which could run a program", "save the data as JSONL"),
    b"\x80\x05": ("a pickle, which could run a program", "save the data as JSONL"),
}
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r\x1b")
_STRANGE = 0.1  # share of control characters from which a file is no text
_KNOWN = f"known: {' '.join(KINDS)}, each also as .gz"
paths = listed


class Records:
    """The rows of one or several files in order, and a BadRow for each row that cannot be read.

    It can be gone through once; then ``notes`` and ``hashes`` are complete.
    """

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources
        self._records = _rows([(_reader(source) if source.here else None, source) for source in sources])

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    @property
    def notes(self) -> list[str]:
        """What was decided without being told, file by file."""
        files = [part for source in self.sources for part in source.columns.values() or [source]]
        read = [source.encoding.note(source.name) for source in files if _is_text(source)]
        notes = [note for note in read if note] + [note for source in self.sources for note in source.notes]
        return list(dict.fromkeys(notes))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the bytes of every file, by its name."""
        return {name: value for source in self.sources for name, value in source.hashes().items()}


def read(files: FileNames, encoding: str | None = None, role: str = "train") -> Records:
    """Rows of files, a folder, a pattern, ``-`` or a dataset on a hub.

    Args:
        files: names, or a mapping {column: text file with one value a line}.
        encoding: of all text files; found out for each if None.
        role: the split that is read; chooses among the files of a dataset on a hub.

    Raises DataError. At once: no such file, an empty file, not a text file, unknown kind.
    While reading: a file whose structure is broken (header, array, open quote) or that holds no row at all.
    Raises ConfigError: an unknown encoding, a file that is named twice.
    """
    return Records(find(files, encodings.named(encoding) if encoding else None, role))


def _rows(chosen: list[tuple[Reader | None, Source]]) -> Iterator[Record]:
    """Without a reader: a file that is fetched when the rows before it have been read."""
    for known, source in chosen:
        found = False
        try:
            for number, record in enumerate((known or _reader(source))(source)):
                found = True
                yield record if source.share is None or source.share.has(number) else SKIPPED
        except OSError as error:
            raise unreadable(error, source.name) from None
        if not found:
            raise DataError("no rows in this file", "one row at least is needed", source.name)


def _reader(source: Source) -> Reader:
    if source.columns:
        for part in source.columns.values():
            if _binary(part, _head(part)):
                raise DataError("not a text file", "one value a line is needed", part.name)
        return parallel.read
    return READERS[source.kind if source.path.is_dir() else _kind(source)]


def _head(source: Source) -> bytes:
    """The first bytes. Raises DataError: unreadable, empty, or known as something that cannot be read."""
    try:
        head = source.head
    except (OSError, ValueError) as error:
        raise unreadable(error, source.name) from None
    if not head.strip() and len(head) < HEAD:
        raise DataError("the file is empty", "one row at least is needed", source.name)
    for mark, (what, hint) in _FOREIGN.items():
        if head.startswith(mark):
            raise DataError(what, hint, source.name)
    return head


def _binary(source: Source, head: bytes) -> str:
    """Suffix of the reader of a file that is no text; empty for text. Raises DataError for what none can read."""
    kind = next((kind for mark, kind in _BINARY.items() if head.startswith(mark)), "")
    if kind == ".xlsx" and source.suffix != ".xlsx" and source.kind != "content":
        raise DataError("an archive, not a text file", "unpack it and name the folder or the files", source.name)
    if kind:
        return kind
    if source.suffix in _BINARY.values():
        raise DataError(f"not a {source.suffix} file", "is the suffix right? save it again", source.name)
    if _strange(source, head):
        raise DataError("not a text file", f"save it as CSV or JSONL; {_KNOWN}", source.name)
    return ""


def _kind(source: Source) -> str:
    """Suffix of a reader, told by the first bytes, the name, or (of what has no name) the text."""
    if binary := _binary(source, _head(source)):
        return binary
    if source.suffix in KINDS and source.kind != "content":
        return source.suffix
    with source.open() as stream:
        begin = stream.read(1 << 12).decode("utf-8", "replace").lstrip()
    if begin.startswith(("{", "[")):
        return ".jsonl"
    if source.kind != "content":
        raise DataError(f"unknown kind of file {source.suffix or source.path.name!r}", _KNOWN, source.name)
    # of what comes from standard input: a table if its first line names columns, else text
    return ".conll" if conll.looks(source) else ".csv" if tables.looks(source) else ".txt"


def _strange(source: Source, head: bytes) -> bool:
    """Whether it is no text: many control characters. A few spoil the rows they are in."""
    if "utf-16" in source.encoding.codec or "utf-32" in source.encoding.codec:
        return False
    return len(head) - len(head.translate(None, _CONTROL)) > _STRANGE * len(head)


def _is_text(source: Source) -> bool:
    return source.here and not source.path.is_dir() and not any(source.head.startswith(mark) for mark in _BINARY)
