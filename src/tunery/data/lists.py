"""Small files of the user's, one entry a line: synonyms, paraphrases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunery.errors import DataError


def entries(file: str, what: str) -> Iterator[tuple[int, str]]:
    """Line numbers and lines that are not blank. Raises DataError: it cannot be read, it is not UTF-8."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", f"name the {what} with file: FILE", file) from None
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", "save it as UTF-8", file) from None
    yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
