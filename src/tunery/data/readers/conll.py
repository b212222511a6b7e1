"""CoNLL: a word and its tag a line, a blank line between sentences. One sentence is one row.

Columns are separated by tabs or spaces; the first is the word, the last the tag, those between are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from tunery.data.readers import BadRow, Record, broken_text, lines, zero_byte
from tunery.data.source import Source
from tunery.protocols import Row

_TAG = re.compile(r"O|[BIEMSL]-\S+")
_DOCUMENT = "-DOCSTART-"
_LOOKED_AT = 200  # lines of a .txt file


def looks(source: Source) -> bool:
    """Whether a text file is of this kind: every line ends with a tag, and some are not O."""
    found = [_cells(line) for _, line in islice(lines(source), _LOOKED_AT) if line is not None and line.strip()]
    found = [cells for cells in found if cells[0] != _DOCUMENT]
    every = all(len(cells) > 1 and _TAG.fullmatch(cells[-1]) for cells in found)
    return every and any(cells[-1] != "O" for cells in found)


def read(source: Source) -> Iterator[Record]:
    """Rows with ``words`` and ``tags``, at the line of their first word. A line without a tag spoils its sentence."""
    words: list[str] = []
    tags: list[str] = []
    name, begun = source.name, 0
    bad: BadRow | None = None
    for number, line in lines(source):
        cells = _cells(line or "")
        if line is not None and (not line.strip() or cells[0] == _DOCUMENT):
            yield from _sentence(words, tags, bad, name, begun)
            words, tags, begun, bad = [], [], 0, None
            continue
        begun = begun or number
        if line is None:
            bad = bad or broken_text(source, number)
        elif "\0" in line:
            bad = bad or zero_byte(source, number)
        elif len(cells) < 2:
            bad = bad or BadRow(f"{name}:{number}", f"{cells[0][:40]!r} has no tag", "write WORD TAG on every line")
        else:
            words.append(cells[0])
            tags.append(cells[-1])
    yield from _sentence(words, tags, bad, name, begun)


def _cells(line: str) -> list[str]:
    # not str.split(): an ideographic space may be a word
    return re.split(r"[ \t]+", line.strip(" \t"))


def _sentence(words: list[str], tags: list[str], bad: BadRow | None, name: str, line: int) -> Iterator[Record]:
    if bad is not None:
        yield bad
    elif words:
        yield Row({"words": words, "tags": tags}, name, line)
