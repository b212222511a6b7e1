"""One reader per kind of file. Each yields rows and bad rows; only what makes the rest of a file unreadable
is raised.

Places are ``file:line``, the file as the user wrote it, the line counted from 1 as an editor does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunery.data.source import Source
from tunery.errors import DataError
from tunery.protocols import Row

NUL_HINT = "remove the zero byte: another program has damaged the file"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read or used. Whether that is an error or a dropped row is the caller's policy."""

    where: str
    problem: str
    hint: str = ""

    @classmethod
    def of(cls, error: DataError) -> BadRow:
        return cls(error.where, error.problem, error.hint)


Record = Row | BadRow
SKIPPED = BadRow("", "another process reads this row")


def lines(source: Source) -> Iterator[tuple[int, str | None]]:
    """Line numbers and lines without their end; None for a line that cannot be decoded.

    Split at LF alone (an old Mac's CR has become one): U+2028 and the like are legal inside JSON strings.
    """
    with source.open() as stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def undecodable(source: Source) -> tuple[str, str]:
    """Problem and hint of a text that is not in the encoding of its file."""
    name = source.encoding.name
    hint = "save the file as UTF-8, or say what it is: data.encoding=gb18030, big5, cp1252, …"
    return f"not {name} text", hint if name == "UTF-8" else f"correct it, or say that the file is not {name}: " \
        "data.encoding=NAME"  # fmt: skip


def broken_text(source: Source, line: int) -> BadRow:
    return BadRow(f"{source.name}:{line}", *undecodable(source))


def zero_byte(source: Source, line: int) -> BadRow:
    return BadRow(f"{source.name}:{line}", "a zero byte (NUL) in the text", NUL_HINT)
