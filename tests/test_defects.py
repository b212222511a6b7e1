"""A file with planted defects of fifteen kinds: ``check`` finds each at its line, and nothing in a clean file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import verbs

LONG = "the parcel with the blue ribbon was left in the rain behind the garden gate of number {} and nobody rang"
WORDS = ("spoon", "kettle", "carpet", "window", "saddle", "basket", "ladder", "mirror", "button", "candle")


def clean(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [
        (f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} number {i}", ("positive", "negative")[i % 2])
        for i in range(start, start + count)
    ]


class Table:
    """A CSV file in the making: bytes, and the line at which each defect stands."""

    def __init__(self) -> None:
        self.lines: list[bytes] = [b"text,label"]
        self.planted: dict[str, list[int]] = {}

    def add(self, text: str | bytes, label: str | None = None, kind: str = "") -> None:
        raw = text if isinstance(text, bytes) else text.encode()
        if kind:
            self.planted.setdefault(kind, []).append(sum(line.count(b"\n") + 1 for line in self.lines) + 1)
        self.lines.append(raw if label is None else raw + b"," + label.encode())


def defective() -> Table:
    table = Table()
    for text, label in clean(60):
        table.add(text, label)
    table.add("zero\0byte", "positive", "bad_row")
    table.add(b"invalid \xff\xfe bytes,negative", kind="bad_row")
    table.add("a cell is missing", kind="bad_row")
    table.add("one,cell too many", "positive", "bad_row")
    table.add("  ", "positive", "bad_row")
    table.add("no label at all", "", "bad_row")
    table.add("spelling of a label", "Positive ", "label_variant")
    table.add(*clean(1)[0], "duplicate")
    table.add(LONG.format(17), "negative")
    table.add(LONG.format(18), "negative", "near_duplicate")
    table.add(clean(1, start=1)[0][0].upper(), "positive", "conflict")
    table.add("this one is in the test file", "negative", "leak")
    table.add("x" * 1_000_000, "positive")
    table.add("שלום עולם \u202eمرحبا\u202c 👩‍👩‍👧 🎉", "negative")
    table.add("3.5", "positive")
    table.add("true", "negative")
    table.add('"an open quote', "positive", "bad_row")
    for text, label in clean(5, start=100):
        table.add(text, label)
    return table


TEST = [*clean(20, start=200), ("this one is in the test file", "negative")]


def checked(capsys: pytest.CaptureFixture[str], model: Path, **files: Path) -> dict[str, Any]:
    named = [f"data.{split}={path}" for split, path in files.items()]
    answer = verbs.call(capsys, "check", *named, f"model={model}", "task=classify", "--json")
    return {**answer.value, "code": answer.code}


def kinds(found: dict[str, Any]) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    for finding in found["findings"]:
        if finding["kind"] not in ("few_rows", "imbalance", "truncated"):
            lines.setdefault(finding["kind"], []).append(finding["line"])
    return {kind: sorted(found) for kind, found in lines.items()}


ENDS: dict[str, Callable[[list[bytes]], bytes]] = {
    "lf": lambda lines: b"\n".join(lines) + b"\n",
    "crlf and a byte order mark": lambda lines: b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n",
    "mixed": lambda lines: b"".join(line + (b"\r\n" if i % 2 else b"\n") for i, line in enumerate(lines)),
}


@pytest.mark.parametrize("ends", ENDS)
def test_every_defect_is_found_at_its_line(
    ends: str, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = defective()
    train, test = tmp_path / "train.csv", tmp_path / "test.jsonl"
    train.write_bytes(ENDS[ends](table.lines))
    test.write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in TEST), encoding="utf-8")
    found = checked(capsys, tiny_bert, train=train, test=test)
    assert found["code"] == 3  # training would refuse the bad rows
    assert kinds(found) == table.planted
    assert found["rows_read"] == len(table.lines) - 1 + len(TEST)
    assert found["used"] + sum(found["dropped"].values()) == found["rows_read"]


def test_the_same_defects_in_json_lines(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[bytes] = [json.dumps({"text": t, "label": label}).encode() for t, label in clean(60)]
    planted: dict[str, list[int]] = {}

    def add(kind: str, raw: bytes) -> None:
        rows.append(raw)
        if kind:
            planted.setdefault(kind, []).append(len(rows))

    add("bad_row", b'{"text": "invalid \xff bytes", "label": "positive"}')
    add("bad_row", b'{"text": "zero\0byte", "label": "positive"}')
    add("bad_row", b'{"text": "an open quote, "label": "positive"}')
    add("bad_row", b'{"text": "no label"}')
    add("bad_row", b'{"text": "a label that is nothing", "label": null}')
    add("bad_row", b'{"text": 3.5, "label": "positive"}')
    add("bad_row", b'{"text": " \\u200b ", "label": "positive"}')
    add("bad_row", b'["a list", "positive"]')
    add("label_variant", b'{"text": "spelling", "label": "POSITIVE"}')
    add("", json.dumps({"text": "x" * 1_000_000, "label": "positive"}).encode())
    add("", json.dumps({"text": "שלום 👩‍👩‍👧 \u202eمرحبا", "label": "negative"}).encode())
    add("duplicate", rows[3])
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n")
    found = checked(capsys, tiny_bert, train=path)
    assert kinds(found) == planted
    assert found["rows_read"] == len(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_nothing_is_found_in_a_clean_file(
    suffix: str, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"train.{suffix}"
    rows = [*clean(80), ('a comma, a "quote" and\na line break', "positive"), ("مرحبا 👋 你好", "negative")]
    if suffix == "csv":
        cells = [",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in rows]
        path.write_text("text,label\n" + "\n".join(cells) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows), encoding="utf-8")
    found = checked(capsys, tiny_bert, train=path)
    assert found["code"] == 0
    assert found["findings"] == []
    assert found["used"] == found["rows_read"] == len(rows)
