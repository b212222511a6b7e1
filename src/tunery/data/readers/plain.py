"""Plain text: every line that is not blank is one row with the column ``text``. Tagged words (CoNLL) and tables often
are in .txt files as well: those are told by their lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunery.data.readers import Record, broken_text, conll, lines, tables, zero_byte
from tunery.data.source import Source
from tunery.protocols import Row


def read(source: Source) -> Iterator[Record]:
    if conll.looks(source):
        yield from conll.read(source)
        return
    if tables.looks(source):
        yield from tables.read(source)
        return
    for number, line in lines(source):
        if line is None:
            yield broken_text(source, number)
        elif "\0" in line:
            yield zero_byte(source, number)
        elif line.strip():
            yield Row({"text": line}, source.name, number)
