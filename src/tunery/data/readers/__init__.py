"""One reader per kind of file. Each yields rows and bad rows; only what makes the rest of a file unreadable
is raised.

Places are ``file:line``, the file as the user wrote it, the line counted from 1 as an editor does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunery.errors import DataError
from tunery.protocols import Row

UTF8_HINT = "save the file as UTF-8 (from GBK: iconv -f GB18030 -t UTF-8 FILE > NEW)"
BOM = b"\xef\xbb\xbf"


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


def lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Line numbers and lines without their end; None for a line that is not UTF-8.

    Split at LF alone: U+2028 and the like are legal inside JSON strings.
    """
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if number == 1:
                raw = raw.removeprefix(BOM)
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield number, None


def not_utf8(where: str) -> BadRow:
    return BadRow(where, "not UTF-8 text", UTF8_HINT)
