"""Files side by side: line n of every file makes row n (translations, texts and their labels)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from tunery.data.readers import Record, broken_text, lines, zero_byte
from tunery.data.source import Source
from tunery.errors import DataError
from tunery.protocols import Row


def read(source: Source) -> Iterator[Record]:
    """A row is at the line of the first file. Lines that are blank in every file are left out.

    Raises DataError if the files have different numbers of lines.
    """
    parts = list(source.columns.values())
    streams = zip_longest(*map(lines, parts))
    for cells in streams:
        if None in cells:
            raise _uneven(parts)
        number = cells[0][0]
        bad = [
            broken_text(part, number) if line is None else zero_byte(part, number)
            for part, (_, line) in zip(parts, cells, strict=True)
            if line is None or "\0" in line
        ]
        if bad:
            # the place is that of the row; the problem says in which file
            problem = bad[0].problem if bad[0].where.startswith(source.name) else f"{bad[0].where}: {bad[0].problem}"
            yield type(bad[0])(f"{source.name}:{number}", problem, bad[0].hint)
        elif any((line or "").strip() for _, line in cells):
            values = {column: line for column, (_, line) in zip(source.columns, cells, strict=True)}
            yield Row(values, source.name, number)


def _uneven(parts: list[Source]) -> DataError:
    counts = ", ".join(f"{part.name} has {sum(1 for _ in lines(part))}" for part in parts)
    return DataError(
        f"the files have different numbers of lines: {counts}", "line n of each must belong together", parts[0].name
    )
