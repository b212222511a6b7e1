"""Examples of any number in bounded memory.

What rows are compared by (places, fingerprints, labels) stays in memory, some 50 bytes a row. The examples
themselves go to a temporary file as soon as there are many, and are read from it when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import tempfile
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from tunery.protocols import Example, Message

IN_MEMORY = 20_000  # examples that are kept as objects
ALL = 50_000  # examples up to which a sample is all of them
Indices = NDArray[np.int64]


def normalise(text: str) -> str:
    r"""Equal for texts that differ only in width of characters, case and white space.

    >>> normalise(" Ｈello\tWORLD ")
    'hello world'
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.casefold().split())


def digest(text: str) -> int:
    """64 bits, the same in every process."""
    found = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little")


def fingerprint(example: Example) -> int:
    """Equal for examples with the same input (normalised)."""
    return digest(normalise(example.input_text))


def as_labels(label: Any) -> tuple[str, ...]:
    """A value of ``Example.label`` as classes."""
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (str(label),)


def labels_of(example: Example) -> tuple[str, ...]:
    """The labels of an example; none for conversations and texts."""
    return as_labels(example.label)


def answer_of(example: Example) -> int:
    """Equal for examples with the same answer, tags or accepted answers."""
    last = example.messages[-1] if example.messages else None
    said = (last.content,) if last is not None and last.role == "assistant" else ()
    accepted = () if example.references == said else example.references
    if not (said or accepted or example.tags):
        return 0
    return digest("\0".join((*said, *accepted, *example.tags)))


class Store:
    """Examples in the order in which they were added.

    Args:
        sample: how many of more than ``least`` examples are kept, drawn at random but the same ones every time; None:
            every one. Those that are not kept have places, fingerprints and labels, and cannot be read any more.
        least: how many are kept before a sample is drawn; ``ALL`` if None.
    """

    def __init__(self, sample: int | None = None, least: int | None = None) -> None:
        self.inputs, self.answers = array("Q"), array("Q")
        self.lines, self.files, self.labels, self.groups = array("q"), array("L"), array("L"), array("L")
        self.file_names: list[str] = []
        self.label_sets: list[Any] = []
        """Values of ``Example.label``; ``labels[i]`` is the number of row i's."""
        self.first_of_label: list[Example] = []
        self.tagged = False
        self._file_numbers: dict[str, int] = {}
        self.group_names: list[str | None] = []
        self._label_numbers: dict[Any, int] = {}
        self._group_numbers: dict[Any, int] = {}
        self._objects: dict[int, Example] = {}
        self._spill: IO[bytes] | None = None
        self._offsets = array("Q", [0])
        self._sample, self._least = sample, ALL if least is None else least
        self._in_memory = IN_MEMORY if sample is None else min(IN_MEMORY, self._least)
        self._drawn: list[int] = []
        self._random = random.Random(0)

    def __len__(self) -> int:
        return len(self.lines)

    def append(self, example: Example) -> None:
        number = len(self.lines)
        self.inputs.append(fingerprint(example))
        self.answers.append(answer_of(example))
        self.lines.append(example.line)
        self.files.append(_numbered(example.file, self._file_numbers, self.file_names))
        known = len(self.label_sets)
        # a number and the text of it are two labels, 1 and 1.0 too
        self.labels.append(_numbered(example.label, self._label_numbers, self.label_sets, type(example.label)))
        self.groups.append(_numbered(example.group, self._group_numbers, self.group_names))
        if len(self.label_sets) > known:
            self.first_of_label.append(example)
        self.tagged = self.tagged or bool(example.tags)
        self._keep(number, example)

    def _keep(self, number: int, example: Example) -> None:
        drawn = self._sample is None or self._draw(number, self._sample)
        if number < self._in_memory:
            self._objects[number] = example
        elif self._sample is None or number < self._least:
            self._write(example)
        elif drawn:
            self._objects[number] = example

    def _draw(self, number: int, sample: int) -> bool:
        """Reservoir sampling (Vitter 1985, algorithm R): whether the row is in the sample, so far."""
        if number < sample:
            self._drawn.append(number)
            return True
        place = int(self._random.random() * (number + 1))
        if place >= sample:
            return False
        if self._drawn[place] >= self._least:
            del self._objects[self._drawn[place]]
        self._drawn[place] = number
        return True

    def _write(self, example: Example) -> None:
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115 (lives as long as the store)
        raw = json.dumps(_plain(example), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        self._spill.write(raw)
        self._offsets.append(self._offsets[-1] + len(raw))

    def read(self, number: int) -> Example:
        """Raises KeyError for a row that was not kept."""
        found = self._objects.get(number)
        number -= self._in_memory
        if found is not None:
            return found
        if self._spill is None or not 0 <= number < len(self._offsets) - 1:
            raise KeyError("this row was not kept")
        begin, end = self._offsets[number : number + 2]
        self._spill.flush()
        # pread: processes that share the file do not share a position
        raw = os.pread(self._spill.fileno(), end - begin, begin)
        return self._example(number + self._in_memory, json.loads(raw.decode("utf-8", "surrogatepass")))

    def _example(self, number: int, fields: dict[str, Any]) -> Example:
        fields["messages"] = tuple(Message(*message) for message in fields.get("messages", ()))
        for key in ("references", "contains", "starts", "words", "tags"):
            fields[key] = tuple(fields.get(key, ()))
        fields |= {"label": self.label_sets[self.labels[number]], "group": self.group_names[self.groups[number]]}
        return Example(self.file_names[self.files[number]], self.lines[number], **fields)

    def kept(self) -> Indices:
        """The sample, where there is one."""
        if self._sample is None or len(self) <= self._least:
            return np.arange(len(self))
        return np.array(sorted(self._drawn), dtype=np.int64)


    def parcel(self) -> dict[str, Any]:
        """All of a store that keeps a sample only, as plain values that another process can send."""
        return {name: getattr(self, name) for name in _PARCEL} | {"tagged": self.tagged}


_ARRAYS = ("inputs", "answers", "lines")
_NUMBERED = {"files": "file_names", "labels": "label_sets", "groups": "group_names"}
_PARCEL = (*_ARRAYS, *_NUMBERED, *_NUMBERED.values(), "first_of_label", "_objects")


def merged(parcels: Sequence[dict[str, Any]], numbers: Sequence[Sequence[int]]) -> Store:
    """One store of several that keep samples. ``numbers[i]``: where the rows of the i-th stand in the whole."""
    order = np.argsort(np.concatenate([np.asarray(part, dtype=np.int64) for part in numbers]), kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    whole = Store(len(order), least=0)
    whole.tagged = any(parcel["tagged"] for parcel in parcels)
    for name in _ARRAYS:
        joined = np.concatenate([np.asarray(parcel[name]) for parcel in parcels])
        getattr(whole, name).frombytes(joined[order].tobytes())
    for name, values in _NUMBERED.items():
        parts = []
        known: dict[Any, int] = {}
        for parcel in parcels:
            kinds = [type(value) for value in parcel[values]]
            renumbered = [
                _numbered(value, known, getattr(whole, values), kind)
                for value, kind in zip(parcel[values], kinds, strict=True)
            ]
            parts.append(np.asarray(renumbered, dtype=np.int64)[np.asarray(parcel[name], dtype=np.int64)])
        getattr(whole, name).frombytes(np.concatenate(parts)[order].astype(np.uint64).tobytes())
    begun = 0
    first: dict[Any, Example] = {}
    for parcel in parcels:
        whole._objects |= {int(places[begun + number]): example for number, example in parcel["_objects"].items()}
        begun += len(parcel["lines"])
        for example in parcel["first_of_label"]:
            first.setdefault((type(example.label), example.label), example)
    whole.first_of_label = list(first.values())
    whole._drawn = sorted(whole._objects)
    return whole


def _numbered(value: Any, numbers: dict[Any, int], values: list[Any], kind: Any = None) -> int:
    found = numbers.get((kind, value))
    if found is None:
        found = numbers[kind, value] = len(values)
        values.append(value)
    return found


def _plain(example: Example) -> dict[str, Any]:
    """What a row is made of, less what the store has as numbers."""
    fields: dict[str, Any] = {"text": example.text} if example.text else {}
    if example.messages:
        fields["messages"] = [(m.role, m.content) for m in example.messages]
    for key in ("text_pair", "references", "contains", "starts", "words", "tags", "copy"):
        value = getattr(example, key)
        if value not in (None, (), ""):
            fields[key] = value
    return fields


def _of(values: array[int], indices: Indices) -> list[int]:
    if not len(values):
        return []
    found: list[int] = np.frombuffer(values, dtype=f"{values.typecode}")[indices].tolist()
    return found


class Rows(Sequence[Example]):
    """Some rows of a store, in any order. Slices and ``take`` are rows again; nothing is copied."""

    def __init__(self, store: Store, indices: Indices | None = None) -> None:
        self.store = store
        self.indices = np.arange(len(store)) if indices is None else indices

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Rows:
        """The examples as rows (they are, if they come from a store)."""
        if isinstance(examples, Rows):
            return examples
        store = Store()
        for example in examples:
            store.append(example)
        return cls(store)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Example | Rows:
        if isinstance(place, slice):
            return Rows(self.store, self.indices[place])
        return self.store.read(int(self.indices[place]))

    def __iter__(self) -> Iterator[Example]:
        return map(self.store.read, self.indices.tolist())

    def take(self, places: Sequence[int] | Indices) -> Rows:
        return Rows(self.store, self.indices[np.asarray(places, dtype=np.int64)])

    def kept(self) -> Rows:
        """Those that can be read: all, unless the store keeps a sample."""
        return Rows(self.store, np.sort(self.indices[np.isin(self.indices, self.store.kept(), kind="table")]))

    @property
    def inputs(self) -> NDArray[np.uint64]:
        return np.frombuffer(self.store.inputs, dtype=np.uint64)[self.indices] if len(self.store) else np.empty(0, "u8")

    @property
    def answers(self) -> NDArray[np.uint64]:
        found = self.store.answers
        return np.frombuffer(found, dtype=np.uint64)[self.indices] if len(found) else np.empty(0, "u8")

    @property
    def label_numbers(self) -> list[int]:
        """Number of each row's label in ``store.label_sets``."""
        return _of(self.store.labels, self.indices)

    @property
    def group_numbers(self) -> list[int | None]:
        """Number of each row's ``Example.group``; None where it has none."""
        names = self.store.group_names
        return [None if names[group] is None else group for group in _of(self.store.groups, self.indices)]

    @property
    def lines(self) -> list[int]:
        """Line of each row in its file."""
        return _of(self.store.lines, self.indices)

    @property
    def grouped(self) -> bool:
        """Whether any row of the store has a group."""
        return any(name is not None for name in self.store.group_names)

    def by_file(self) -> Iterator[tuple[str, list[int]]]:
        """File by file, the lines of its rows in order."""
        files = np.array(_of(self.store.files, self.indices), dtype=np.int64)
        lines = np.array(self.lines, dtype=np.int64)
        for number in dict.fromkeys(files.tolist()):
            yield self.store.file_names[number], lines[files == number].tolist()

    def label(self, place: int) -> Any:
        return self.store.label_sets[self.store.labels[int(self.indices[place])]]

    def place(self, place: int) -> tuple[str, int]:
        """File and line, without reading the row."""
        number = int(self.indices[place])
        return self.store.file_names[self.store.files[number]], self.store.lines[number]

    def where(self, place: int) -> str:
        file, line = self.place(place)
        return f"{file}:{line}"
