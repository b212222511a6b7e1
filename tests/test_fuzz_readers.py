"""Damaged files of every kind: rows, bad rows or one error; never a traceback, a hang, or a row lost from the ledger.

``TUNERY_FUZZ=10000`` damages so many files (in all); the default is a number for every commit. Each case has a seed
and can be made again: ``TUNERY_FUZZ_ONLY=SEED``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunery.config import DataConfig
from tunery.data import source
from tunery.data.read import BadRow, read
from tunery.errors import TuneryError
from tunery.protocols import Row
from tunery.run.dataset import load_dataset

CASES = int(os.environ.get("TUNERY_FUZZ", "600"))
ONLY = os.environ.get("TUNERY_FUZZ_ONLY")
HANGS = 120  # seconds that no file of a few KB takes, on any machine
PIECES = [
    b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b'""', b"'", b",", b";",
    b"\t", b"{", b"}", b"[", b"]", b":", b"\\", b"\\ud800", b"\\u0000", b"null", b"NaN", b"-1e999", b"9" * 40,
    b"=1+1", b" " * 9, "文本".encode(), "文本".encode("gb18030"), "繁體".encode("big5"), "\u2028".encode(),
    b"PK\x03\x04", b"\x1f\x8b", b"PAR1", b"&lt;", b"<!DOCTYPE x>", b'r="A99999999"', b"sep=;\n", b"B-X",
]  # fmt: skip
TEXTS = [
    "The room was clean",
    "房间很干净，服务也很好",
    "noisy, cold; never again",
    "",
    'she said "fine"',
    "two\nlines",
]
TEXTS += ["早餐一般\t但是位置好", "😀 אבג", "=SUM(A1)", "x" * 300]


def records(count: int = 12) -> list[dict[str, str]]:
    return [{"text": f"{TEXTS[n % len(TEXTS)]} {n}", "label": ["good", "bad"][n % 2]} for n in range(count)]


def table(mark: str, rows: list[dict[str, str]]) -> str:
    cells = [["text", "label"], *([row["text"].replace('"', '""'), row["label"]] for row in rows)]
    return "".join(mark.join(f'"{cell}"' for cell in row) + "\n" for row in cells)


def squad() -> str:
    asked = [{"id": str(n), "question": f"who {n}?", "answers": [{"text": "an", "answer_start": 0}]} for n in range(6)]
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": "anna", "qas": asked}]}]}, indent=1)


def excel() -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in [["text", "label"], *([row["text"], n % 3] for n, row in enumerate(records()))]:
        book.active.append(row)
    book.save(stream)
    return stream.getvalue()


def arrow(parquet: bool) -> bytes:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    stream, made = io.BytesIO(), pa.Table.from_pylist(records())
    if parquet:
        pq.write_table(made, stream)
    else:
        with pa.ipc.new_stream(stream, made.schema) as writer:
            writer.write_table(made)
    return stream.getvalue()


def whole_files() -> dict[str, bytes]:
    """A whole file of every kind, by its name."""
    rows = records()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    tagged = "".join(f"{word} {tag}\n" for word, tag in zip("北京房间很好", "BIOOOO", strict=True)).replace(
        "B\n", "B-X\n"
    )
    return {
        "lines.jsonl": lines.encode(),
        "array.json": json.dumps(rows, ensure_ascii=False).encode(),
        "indented.json": json.dumps(rows, indent=1).encode(),
        "under.json": json.dumps({"version": 1, "data": rows}, indent=1).encode(),
        "squad.json": squad().encode(),
        "comma.csv": table(",", rows).encode(),
        "tab.tsv": table("\t", rows).encode(),
        "semicolon.txt": table(";", rows).encode(),
        "plain.txt": "\n".join(row["text"] for row in rows).encode(),
        "words.conll": (tagged.replace("I\n", "I-X\n") + "\n").encode() * 5,
        "utf16.csv": table(",", rows).encode("utf-16"),
        "chinese.jsonl": lines.encode("gb18030"),
        "mac.csv": table(",", rows).replace("\n", "\r").encode(),
        "packed.jsonl.gz": gzip.compress(lines.encode()),
        "book.xlsx": excel(),
        "table.parquet": arrow(parquet=True),
        "table.arrow": arrow(parquet=False),
    }


def damaged(whole: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """One to six changes anywhere."""
    found = bytearray(whole)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(found) + 1)
        end = min(len(found), at + draw.choice([1, 1, 2, 4, 16, 64]))
        kind = draw.randrange(7)
        if kind == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[at:at] = draw.choice(PIECES)
        elif kind == 2:
            del found[at:end]
        elif kind == 3:
            found[at:at] = found[at:end] * draw.choice([1, 2, 50])
        elif kind == 4:
            found[at:end] = draw.randbytes(end - at)
        elif kind == 5:
            other = draw.choice(others)
            begin = draw.randrange(len(other))
            found[at:at] = other[begin : begin + draw.randrange(200)]
        else:
            found[at:] = b"" if draw.random() < 0.3 else found[at:][::-1][:100]
    return bytes(found)


def inside(whole: bytes, draw: random.Random, change: Callable[[bytes], bytes]) -> bytes:
    """A packed file whose content is damaged, not its packing."""
    if whole.startswith(b"\x1f\x8b"):
        return gzip.compress(change(gzip.decompress(whole)))
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w") as new:
        chosen = draw.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == chosen else old.read(name))
    return stream.getvalue()


def case(seed: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    draw = random.Random(seed)
    name = list(files)[seed % len(files)]
    others = list(files.values())
    if name.endswith((".gz", ".xlsx")) and draw.random() < 0.6:
        return name, inside(files[name], draw, lambda content: damaged(content, draw, others))
    return name, damaged(files[name], draw, others)


@contextlib.contextmanager
def not_for_ever(seed: int) -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError(f"seed {seed} hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def rows_of(file: str) -> int | None:
    """Number of rows and bad rows; None if the file as a whole is refused."""
    last, count = 0, 0
    try:
        for record in read(file):
            assert isinstance(record, Row | BadRow)
            name, _, line = record.where.rpartition(":")
            assert name == file and int(line) > last, "a place belongs to one row"
            last, count = int(line), count + 1
            if isinstance(record, Row):
                assert record.values
                str(record.values).encode("utf-8")
    except TuneryError as error:
        assert error.problem and "\n" not in str(error)
        return None
    return count


def check(file: str) -> str:
    """What became of a file; raises for what must not be."""
    count = rows_of(file)
    try:
        data = DataConfig(train=file, on_bad_row="drop", near_duplicates=False, on_leak="warn")
        dataset = load_dataset(data, None, 1)
    except TuneryError as error:
        assert error.problem
        return "refused" if count is None else "rows, but no examples"
    assert count is not None
    assert dataset.ledger.rows == count, "a row is lost"
    assert sum(dataset.ledger.counts().values()) == count
    assert sum(map(len, dataset.splits.values())) <= count
    return "examples"


def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FREE", 1 << 24)
    files = whole_files()
    for name, whole in files.items():
        (tmp_path / name).write_bytes(whole)
        assert rows_of(str(tmp_path / name)), f"{name} is a good file"
    outcomes: dict[str, int] = {}
    failures = []
    for seed in [int(ONLY)] if ONLY else range(CASES):
        name, content = case(seed, files)
        path = tmp_path / name
        path.write_bytes(content)
        try:
            with not_for_ever(seed):
                outcome = check(str(path))
        except Exception as error:
            if ONLY:
                raise
            failures.append(f"seed {seed} ({name}): {type(error).__name__}: {error}")
            outcome = "a fault"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(f"{CASES} damaged files: {outcomes}")
    assert not failures, failures[:20]
    assert ONLY or outcomes.keys() == {"refused", "rows, but no examples", "examples"}, "damage of every degree"
