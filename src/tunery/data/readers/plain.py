"""Plain text: every line that is not blank is one row with the column ``text``. Tagged words (CoNLL) often are
in .txt files as well: those are told by their lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunery.data.readers import Record, conll, lines, not_utf8
from tunery.protocols import Row


def read(path: Path, name: str) -> Iterator[Record]:
    """``name`` is the file as shown to the user."""
    if conll.looks(path):
        yield from conll.read(path, name)
        return
    for number, line in lines(path):
        if line is None:
            yield not_utf8(f"{name}:{number}")
        elif line.strip():
            yield Row({"text": line}, name, number)
