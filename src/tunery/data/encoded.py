"""Encoded rows as arrays: compact in memory, and mapped from disk they take none.

A row is made when it is asked for. Everything of one kind lies in one array, row after row; ``ids_at[i]`` is where
row i begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from tunery.protocols import Encoded

Columns = dict[str, NDArray[Any]]
_BESIDE = {"labels": np.int32, "type_ids": np.int8, "tags": np.int32}
"""Lists with one value a token."""


class UnevenRowsError(ValueError):
    """Rows of which some have a field and some do not cannot be columns."""


def columns_of(rows: Sequence[Encoded]) -> Columns:
    """Raises UnevenRowsError."""
    found: Columns = {
        "ids": _flat([row.ids for row in rows], np.int32),
        "ids_at": _ends([row.ids for row in rows]),
        "row": np.array([row.row for row in rows], dtype=np.int64),
        "truncated": np.array([row.truncated for row in rows], dtype=np.bool_),
        "supervised": np.array([row.supervised for row in rows], dtype=np.int32),
    }
    for name, kind in _BESIDE.items():
        if given := _given(rows, name):
            found[name] = _flat(given, kind)
    if given := _given(rows, "offsets"):
        found["offsets"] = _flat([[n for pair in row for n in pair] for row in given], np.int32)
    if given := _given(rows, "answer"):
        found["answer"], found["answer_at"] = _flat(given, np.int32), _ends(given)
    if given := _given(rows, "span"):
        found["span"] = np.array(given, dtype=np.int32)
    if given := _given(rows, "target"):
        kinds = {type(value) for value in given}
        if len(kinds) > 1:
            raise UnevenRowsError("targets of several types")
        found["target"] = np.array(given, dtype=np.int64 if kinds == {int} else np.float64)
    return found


class Writer:
    """Columns, part by part, into a folder. ``close`` makes it readable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[str, list[int]]] = {}
        self._ends: dict[str, int] = {}

    def add(self, columns: Columns) -> None:
        """Raises UnevenRowsError if an earlier part had other columns."""
        if self._files and columns.keys() != self._files.keys():
            raise UnevenRowsError("parts with other columns")
        for name, array in columns.items():
            if name not in self._files:
                self._files[name] = (self.folder / f"{name}.bin").open("wb")
                self._kinds[name] = (array.dtype.str, list(array.shape[1:]))
                if name.endswith("_at"):
                    self._files[name].write(np.zeros(1, dtype=array.dtype).tobytes())
            if (array.dtype.str, list(array.shape[1:])) != self._kinds[name]:
                raise UnevenRowsError(f"{name} of several kinds")
            if name.endswith("_at"):
                array = array[1:] + self._ends.get(name, 0)
                self._ends[name] = int(array[-1]) if len(array) else self._ends.get(name, 0)
            self._files[name].write(array.tobytes())

    def close(self) -> None:
        for stream in self._files.values():
            stream.close()
        (self.folder / "columns.json").write_text(json.dumps(self._kinds), encoding="utf-8")


class EncodedRows(Sequence[Encoded]):
    """What a list of Encoded is, from columns."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.scratch: Any = None
        """What has to live as long as the rows do: their temporary folder."""

    @classmethod
    def load(cls, folder: Path) -> EncodedRows:
        """Mapped into memory, not read. Raises OSError or ValueError for a damaged folder."""
        kinds = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        return cls({name: _mapped(folder / f"{name}.bin", *kind) for name, kind in kinds.items()})

    def __len__(self) -> int:
        return len(self.columns["row"])

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        columns = self.columns
        begin, end = columns["ids_at"][place : place + 2]
        fields: dict[str, Any] = {name: columns[name][begin:end].tolist() for name in _BESIDE if name in columns}
        if "offsets" in columns:
            flat = columns["offsets"][2 * begin : 2 * end].tolist()
            fields["offsets"] = list(zip(flat[::2], flat[1::2], strict=True))
        if "answer" in columns:
            first, last = columns["answer_at"][place : place + 2]
            fields["answer"] = columns["answer"][first:last].tolist()
        if "span" in columns:
            fields["span"] = tuple(columns["span"][place].tolist())
        if "target" in columns:
            fields["target"] = columns["target"][place].tolist()
        return Encoded(
            ids=columns["ids"][begin:end].tolist(),
            truncated=bool(columns["truncated"][place]),
            row=int(columns["row"][place]),
            **fields,
        )

    def __iter__(self) -> Iterator[Encoded]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> list[int]:
        lengths = np.diff(self.columns["ids_at"])
        if "answer_at" in self.columns:
            lengths = lengths + np.diff(self.columns["answer_at"])
        return [int(length) for length in lengths]

    @property
    def supervised(self) -> int:
        return int(self.columns["supervised"].sum())


def _mapped(file: Path, kind: str, shape: Sequence[int]) -> NDArray[Any]:
    if not file.stat().st_size:
        return np.empty((0, *shape), dtype=kind)
    flat = np.memmap(file, dtype=kind, mode="r")
    return flat.reshape((-1, *shape)) if shape else flat


def lengths(rows: Sequence[Encoded]) -> list[int]:
    """Tokens of each row."""
    return rows.lengths if isinstance(rows, EncodedRows) else [row.length for row in rows]


def outline(rows: Sequence[Encoded]) -> Iterator[tuple[int, int, bool]]:
    """Of each row the index of its example, the number of its ids, and whether it was cut."""
    if not isinstance(rows, EncodedRows):
        yield from ((row.row, len(row.ids), row.truncated) for row in rows)
        return
    columns = rows.columns
    sizes = np.diff(columns["ids_at"]).tolist()
    yield from zip(columns["row"].tolist(), sizes, columns["truncated"].tolist(), strict=True)


def supervised(rows: Sequence[Encoded]) -> int:
    """Targets of all rows."""
    return rows.supervised if isinstance(rows, EncodedRows) else sum(row.supervised for row in rows)


def supervised_each(rows: Sequence[Encoded]) -> list[int]:
    """Targets of each row."""
    if isinstance(rows, EncodedRows):
        return [int(count) for count in rows.columns["supervised"]]
    return [row.supervised for row in rows]


def _given(rows: Sequence[Encoded], name: str) -> list[Any]:
    found = [value for row in rows if (value := getattr(row, name)) is not None]
    if found and len(found) < len(rows):
        raise UnevenRowsError(name)
    return found


def _flat(lists: Sequence[Sequence[int]], kind: Any) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(lists), dtype=kind, count=sum(map(len, lists)))


def _ends(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)
