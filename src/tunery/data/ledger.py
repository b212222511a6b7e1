"""Where every input row went: in exactly one bucket, ``used:SPLIT`` or ``dropped:REASON``.

Truncation, windows and augmented copies are attributes of a row, not buckets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_BUCKET = re.compile(r"(used|dropped):[a-z0-9_]+")
_MOST_NOTES = 1000  # in the JSON; counts and rows are always complete


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one row went."""

    file: str
    line: int
    split: str
    """Whose input it is; the bucket tells where it is used (a row of train may be held out)."""
    bucket: str
    note: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


class Ledger:
    """Rows are known by their place (``file:line``).

    A file may be the input of two splits (training and testing on the same rows): such a row stands in the
    ledger once for each, and ``split`` says which one is meant.
    """

    def __init__(self) -> None:
        # (file, input split) → line → bucket; small, as there may be millions of rows
        self._files: dict[tuple[str, str], dict[int, str]] = {}
        self._attributes: dict[str, dict[tuple[str, str], dict[int, int]]] = {}
        self._notes: dict[tuple[str, str, int], str] = {}
        self._rows = 0

    def add(self, where: str, bucket: str, note: str = "", split: str = "") -> None:
        """Enter a row. ``split``: whose input it is; taken from the bucket if that is ``used:…``.

        Raises ValueError if the row is already entered or the bucket is not one.
        """
        file, line = _parsed(where)
        self.enter(file, line, bucket, note, split or bucket.removeprefix("used:") * bucket.startswith("used:"))

    def enter(self, file: str, line: int, bucket: str, note: str, split: str) -> None:
        """``add`` for a place that is known in its parts."""
        self.enter_all(file, [line], bucket, split)
        self._annotate(file, split, line, note)

    def enter_all(self, file: str, lines: Sequence[int], bucket: str, split: str) -> None:
        """``enter`` for many rows of a file."""
        _checked(bucket)
        known = self._files.setdefault((file, split), {})
        before = len(known)
        for line in lines:
            if line in known:
                raise ValueError(f"{file}:{line} is already in {known[line]}")
            known[line] = bucket
        self._rows += len(known) - before

    def move_all(self, file: str, lines: Sequence[int], bucket: str, split: str) -> None:
        """``move`` for many rows of a file, all of one input split. Raises ValueError if one is not there."""
        _checked(bucket)
        known = self._files.get((file, split), {})
        for line in lines:
            if line not in known:
                raise ValueError(f"{file}:{line}: no such row of {split} in the ledger")
            known[line] = bucket

    def move(self, where: str, bucket: str, note: str = "", split: str = "") -> None:
        """Put a row into another bucket. ``split``: the split it is used in now, if that is not clear.

        Raises ValueError if there is no such row, or several.
        """
        _checked(bucket)
        key, line = self._find(where, split)
        self._files[key][line] = bucket
        self._annotate(*key, line, note)

    def mark(self, where: str, attribute: str, value: int = 1, split: str = "") -> None:
        """Give a row an attribute: ``truncated``, or ``windows`` with their number."""
        key, line = self._find(where, split)
        self._attributes.setdefault(attribute, {}).setdefault(key, {})[line] = value

    def bucket(self, where: str, split: str = "") -> str:
        """Raises ValueError if there is no such row, or several."""
        key, line = self._find(where, split)
        return self._files[key][line]

    def lines(self, file: str, split: str) -> Collection[int]:
        """Lines of a file that are entered as input of a split."""
        return self._files.get((file, split), {}).keys()

    @property
    def rows(self) -> int:
        """Number of input rows."""
        return self._rows

    def counts(self) -> dict[str, int]:
        """Rows by bucket, the used ones first."""
        counts = Counter(bucket for lines in self._files.values() for bucket in lines.values())
        assert sum(counts.values()) == self._rows, "a row has been lost or counted twice"
        return dict(sorted(counts.items(), key=lambda item: (item[0].startswith("dropped"), item[0])))

    def entries(self, dropped: bool = False) -> Iterator[Entry]:
        """Every row, or the dropped ones alone, file by file in the order in which they were entered."""
        for (file, split), lines in self._files.items():
            for line, bucket in lines.items():
                if dropped and not bucket.startswith("dropped:"):
                    continue
                yield Entry(file, line, split, bucket, self._notes.get((file, split, line), ""))

    def summary(self) -> dict[str, Any]:
        """What ``tunery check`` reports.

        ``rows_read``, ``used``, ``splits`` {split: rows}, ``dropped`` {reason: rows}, and the sum of every
        attribute over the rows that are used.
        """
        counts = self.counts()
        splits = {name.removeprefix("used:"): n for name, n in counts.items() if name.startswith("used:")}
        dropped = {name.removeprefix("dropped:"): n for name, n in counts.items() if name.startswith("dropped:")}
        assert sum(splits.values()) + sum(dropped.values()) == self._rows
        result = {"rows_read": self._rows, "used": sum(splits.values()), "splits": splits, "dropped": dropped}
        return result | {name: sum(value for *_, value in self._marked(name)) for name in self._attributes}

    def to_json(self) -> dict[str, Any]:
        """The summary, and the lines of every bucket as ranges: ``"1-44, 46"``."""
        files = []
        for (file, split), lines in self._files.items():
            buckets: dict[str, list[int]] = {}
            for line, bucket in lines.items():
                buckets.setdefault(bucket, []).append(line)
            files.append(
                {
                    "file": file,
                    "split": split,
                    "rows": len(lines),
                    "buckets": {bucket: ranges(found) for bucket, found in sorted(buckets.items())},
                }
            )
        attributes: dict[str, list[dict[str, str]]] = {}
        for name in self._attributes:
            found_in: dict[str, list[int]] = {}
            for file, line, _ in self._marked(name):
                found_in.setdefault(file, []).append(line)
            attributes[name] = [{"file": file, "lines": ranges(found)} for file, found in found_in.items()]
        notes = [{"where": f"{file}:{line}", "note": note} for (file, _, line), note in self._notes.items()]
        return self.summary() | {
            "files": files,
            "attributes": attributes,
            "notes": notes[:_MOST_NOTES],
            "notes_left_out": max(0, len(notes) - _MOST_NOTES),
        }

    def _marked(self, attribute: str) -> Iterator[tuple[str, int, int]]:
        """File, line and value of the used rows that have an attribute."""
        for key, lines in self._attributes[attribute].items():
            for line, value in lines.items():
                if self._files[key][line].startswith("used:"):
                    yield key[0], line, value

    def _find(self, where: str, split: str) -> tuple[tuple[str, str], int]:
        file, line = _parsed(where)
        found = [key for key, lines in self._files.items() if key[0] == file and line in lines]
        if split:
            # the split a row is used in comes first; a dropped row is known by whose input it is
            now = [key for key in found if self._files[key][line] == f"used:{split}"]
            found = now or [key for key in found if key[1] == split]
        if len(found) != 1:
            raise ValueError(f"{where}: {len(found)} rows in the ledger" + (", say which split" if found else ""))
        return found[0], line

    def _annotate(self, file: str, split: str, line: int, note: str) -> None:
        if note:
            self._notes[file, split, line] = note


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, runs joined.

    >>> ranges([1, 2, 3, 7, 5])
    '1-3, 5, 7'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _parsed(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    if not file or not line.isdecimal():
        raise ValueError(f"{where!r} is not file:line")
    return file, int(line)


@cache
def _checked(bucket: str) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{bucket!r} is not a bucket: used:SPLIT or dropped:REASON")
