"""Encode many rows in several processes, once: what was encoded stays in the cache, as arrays on disk.

An entry is known by all that it depends on: the bytes of the data files and how they are read, task, tokenizer,
template, mask policy and the code that encodes. The oldest entries go when all together are too large.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tunery.data.encoded import Columns, EncodedRows, UnevenRowsError, Writer, columns_of
from tunery.errors import DataError
from tunery.models import cache as caches
from tunery.models.machine import cpus
from tunery.protocols import Encoded
from tunery.rundir import writing

AT_A_TIME = 500  # examples that go through the tokenizer together
ON_DISK = 2_000  # examples from which rows are kept as arrays in the cache
SEVERAL = 5_000  # examples from which several processes are worth their start
MOST_BYTES = 5_000_000_000  # of the cache of encoded rows
_CODE = ("data", "formats", "cleaners", "augmenters", "tasks", "run", "protocols")
"""Where the code is that decides what a row becomes."""
_PACKAGES = ("transformers", "tokenizers", "ftfy", "jieba", "nltk", "opencc")
"""And the packages; some of them may not be there."""


@dataclass(slots=True)
class Part:
    """Some examples, encoded: what any process can do without the others."""

    rows: Sequence[Encoded] = ()
    kept: list[int] = field(default_factory=list)
    """Places of the examples that ``rows`` are of; ``Encoded.row`` counts them."""
    events: list[tuple[int, str, str, int]] = field(default_factory=list)
    """Place, what happened to the row, in words, number of windows."""
    error: DataError | None = None
    """Where the policy is to stop: the first row that is refused."""


Encode = Callable[[int, int], Part]
"""Examples from a place up to another."""
_Plain = tuple[Columns, list[int], list[tuple[int, str, str, int]], tuple[str, str, str] | None]


def encode_all(encode: Encode, count: int, key: str | None) -> Part:
    """All ``count`` examples. ``key``: what they depend on; None: nothing is cached."""
    if count < ON_DISK:
        return _in_memory(encode, count)
    entry = None if key is None else _root() / hashlib.sha256(f"{key}\0{_code()}".encode()).hexdigest()[:32]
    if entry is not None and (found := _read(entry)):
        return found
    try:
        if entry is None:
            scratch = tempfile.TemporaryDirectory(prefix="tunery-")
            part = _write(encode, count, Path(scratch.name))
            if isinstance(part.rows, EncodedRows):
                part.rows.scratch = scratch
            return part
        with caches.locked(entry):
            if found := _read(entry):
                return found
            with writing(entry) as folder:
                folder.mkdir()
                part = _write(encode, count, folder)
                if part.error is not None:
                    raise part.error
            _sweep(entry)
        return _read(entry) or _in_memory(encode, count)
    except UnevenRowsError:
        return _in_memory(encode, count)


def _in_memory(encode: Encode, count: int) -> Part:
    whole = Part()
    rows: list[Encoded] = []
    for begin in range(0, count, AT_A_TIME):
        part = encode(begin, min(begin + AT_A_TIME, count))
        if part.error is not None:
            return part
        for row in part.rows:
            row.row += len(whole.kept)
        rows += part.rows
        whole.kept += part.kept
        whole.events += part.events
    whole.rows = rows
    return whole


# ------------------------------------------------------------------------------------------------ the cache


def _root() -> Path:
    return caches.root() / "encoded"


@cache
def _code() -> str:
    """A hash of the code that encodes: another version of it never reads what this one wrote."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            digest.update(f"{package} {version(package)} ".encode())
    folder = Path(__file__).resolve().parent.parent
    for name in _CODE:
        path = folder / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _read(entry: Path) -> Part | None:
    """A whole entry, or None: a damaged one is made anew."""
    try:
        record = json.loads((entry / "record.json").read_text(encoding="utf-8"))
        rows = EncodedRows.load(entry)
        os.utime(entry)
    except (OSError, ValueError, KeyError):
        return None
    return Part(rows, record["kept"], [tuple(event) for event in record["events"]])


def _write(encode: Encode, count: int, folder: Path) -> Part:
    writer, whole = Writer(folder), Part()
    for columns, kept, events, error in _parts(encode, count):
        if error is not None:
            return Part(error=DataError(*error))
        if "row" in columns and len(columns["row"]):
            columns["row"] = columns["row"] + len(whole.kept)
            writer.add(columns)
        whole.kept += kept
        whole.events += events
    writer.close()
    record = {"kept": whole.kept, "events": whole.events}
    (folder / "record.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    if not whole.kept:
        return whole
    whole.rows = EncodedRows.load(folder)
    return whole


def _sweep(newest: Path) -> None:
    """Remove the entries that were used longest ago, until the rest is small enough."""
    entries = [path for path in newest.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    left = sum(_size(path) for path in entries)
    for path in sorted(entries, key=lambda path: path.stat().st_mtime):
        if left <= MOST_BYTES or path == newest:
            return
        left -= _size(path)
        with suppress(OSError):
            shutil.rmtree(path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# -------------------------------------------------------------------------------------------- the processes

_encode: Encode | None = None
"""For the processes that are forked: a function with all its data cannot be sent to them."""


def _parts(encode: Encode, count: int) -> Iterator[_Plain]:
    """The parts in order, with a progress bar."""
    from tqdm import tqdm

    global _encode
    _encode = encode
    spans = [(begin, min(begin + AT_A_TIME, count)) for begin in range(0, count, AT_A_TIME)]
    workers = cpus() if count >= SEVERAL and sys.platform == "linux" else 1
    with tqdm(total=count, desc="encoding", unit=" rows", disable=not sys.stderr.isatty(), leave=False) as bar:
        if workers == 1:
            for span in spans:
                yield _plain(span)
                bar.update(span[1] - span[0])
            return
        with multiprocessing.get_context("fork").Pool(workers, _alone) as pool:
            for (begin, end), part in zip(spans, pool.imap(_plain, spans), strict=True):
                yield part
                bar.update(end - begin)


def _alone() -> None:
    """A forked process is one of several: the tokenizer's own threads would only be in the way."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _plain(span: tuple[int, int]) -> _Plain:
    assert _encode is not None
    part = _encode(*span)
    error: Any = part.error
    said = None if error is None else (error.problem, error.hint, error.where)
    return columns_of(part.rows), part.kept, part.events, said
