"""Spreadsheets, Parquet and Arrow files, JSON with its rows under a key, tables in text files."""

from __future__ import annotations

import datetime
import gzip
import json
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tunery.config import DataConfig
from tunery.data import source
from tunery.data.read import BadRow, read
from tunery.errors import DataError
from tunery.protocols import Row
from tunery.run.dataset import load_dataset

openpyxl = pytest.importorskip("openpyxl")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows(file: Any) -> list[tuple[str, dict[str, Any]]]:
    records = list(read(file))
    assert all(isinstance(record, Row) for record in records), records
    return [(record.where.rpartition(":")[2], dict(record.values)) for record in records]


def notes(file: Any) -> list[str]:
    records = read(file)
    list(records)
    return records.notes


# -------------------------------------------------------------------------------------------------- Excel


def book(path: Path, **sheets: list[list[Any]]) -> str:
    made = openpyxl.Workbook()
    made.remove(made.active)
    for title, cells in sheets.items():
        sheet = made.create_sheet(title)
        for row in cells:
            sheet.append(row)
    made.save(path)
    return str(path)


def test_excel(tmp_path: Path) -> None:
    date = datetime.datetime(2013, 4, 5)
    cells = [
        ["text", "label", None, "when", "n"],
        ["干净的房间", True, "left out", date, 3],
        [],
        ["two\nlines", "bad", None, date.replace(hour=7), 2.5],
        [None, None, None, None, None],
        ["only a text"],
    ]
    file = book(tmp_path / "a.xlsx", Sheet=cells)
    assert rows(file) == [
        ("2", {"text": "干净的房间", "label": True, "when": "2013-04-05", "n": 3}),
        ("4", {"text": "two\nlines", "label": "bad", "when": "2013-04-05 07:00:00", "n": 2.5}),
        ("6", {"text": "only a text", "label": None, "when": None, "n": None}),
    ]
    assert notes(file) == []
    packed = tmp_path / "b.xlsx.gz"
    packed.write_bytes(gzip.compress(Path(file).read_bytes()))
    assert rows(str(packed)) == rows(file)


def test_formulas_are_text(tmp_path: Path) -> None:
    calls = ['=HYPERLINK("http://example.org")', "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"]
    file = book(tmp_path / "a.xlsx", Sheet=[["text", "label"], *([call, "x"] for call in calls)])
    assert [value["text"] for _, value in rows(file)] == calls
    assert notes(file) == [f"{file}: formulas are not evaluated but read as their text, the first in A2"]
    comma = tmp_path / "a.csv"
    comma.write_text("text,label\n" + "".join('"' + call.replace('"', '""') + '",x\n' for call in calls))
    assert [value["text"] for _, value in rows(str(comma))] == calls


def test_excel_sheets(tmp_path: Path) -> None:
    file = book(tmp_path / "a.xlsx", First=[["text"], ["a"]], Second=[["text"], ["b"]])
    assert rows(file) == [("2", {"text": "a"})]
    assert notes(file) == [f"{file}: the sheet 'First' of First, Second is read ({file}#NAME for another)"]
    (record,) = read(f"{file}#Second")
    assert isinstance(record, Row)
    assert (record.where, record.values) == (f"{file}#Second:2", {"text": "b"})
    with pytest.raises(DataError, match="there are: First, Second"):
        list(read(f"{file}#Third"))
    data = DataConfig(train=f"{file}#First", validation=f"{file}#Second")
    assert load_dataset(data, "lm", 1).ledger.rows == 2


def test_excel_rows_that_cannot_be_used(tmp_path: Path) -> None:
    made = openpyxl.Workbook()
    made.active.append(["text", "label"])
    made.active.append(["a", "b", "c"])
    made.active["A3"] = "#DIV/0!"
    made.active["A3"].data_type = "e"
    made.active["B3"] = "x"
    made.save(tmp_path / "a.xlsx")
    found = [(r.where.rpartition(":")[2], r.problem) for r in read(str(tmp_path / "a.xlsx")) if isinstance(r, BadRow)]
    assert found == [("2", "3 cells, the header has 2"), ("3", "the cell A3 holds the error #DIV/0!")]
    twice = book(tmp_path / "b.xlsx", Sheet=[["text", "text"], ["a", "b"]])
    with pytest.raises(DataError, match="two columns are called 'text'"):
        list(read(twice))
    with pytest.raises(DataError, match="no rows"):
        list(read(book(tmp_path / "c.xlsx", Sheet=[["text", "label"]])))


def test_damaged_and_far_too_large_workbooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(book(tmp_path / "a.xlsx", Sheet=[["text"], ["a"]])).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:600] + b"\0" * 90 + whole[690:]):
        (tmp_path / "b.xlsx").write_bytes(damaged)
        with pytest.raises(DataError, match="not a readable Excel workbook"):
            list(read(str(tmp_path / "b.xlsx")))
    monkeypatch.setattr("tunery.data.readers.excel.FREE", 1 << 16)
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/worksheets/sheet1.xml", b" " * (8 << 20))
    with pytest.raises(DataError, match="times its size"):
        list(read(str(tmp_path / "c.xlsx")))


@pytest.mark.parametrize("entity", ['SYSTEM "file:///etc/hosts"', '"&f;&f;&f;&f;"'], ids=["file", "laughs"])
def test_a_workbook_reads_no_other_file(tmp_path: Path, entity: str) -> None:
    book(tmp_path / "a.xlsx", Sheet=[["text"], ["replaced"]])
    kind = f'<!DOCTYPE x [<!ENTITY f "localhost"><!ENTITY e {entity}>]>'
    with zipfile.ZipFile(tmp_path / "a.xlsx") as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            content = old.read(name).decode()
            if name == "xl/sharedStrings.xml":
                content = kind + content.partition("?>")[2].replace("replaced", "&e;") if "?>" in content[:60] else (
                    kind + content.replace("replaced", "&e;")
                )  # fmt: skip
            new.writestr(name, content)
    try:
        found = rows(str(tmp_path / "b.xlsx"))
    except DataError:
        return  # refused as a whole
    assert len(str(found)) < 200 and "127.0.0.1" not in str(found)


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("openpyxl", "a.xlsx", "excel"), ("pyarrow", "a.parquet", "arrow")]
)
def test_a_missing_extra_is_named(
    tmp_path: Path, package: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"PAR1" if extra == "arrow" else b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"tunery\[{extra}\]"):
        list(read(str(tmp_path / name)))


# ------------------------------------------------------------------------------------------ Parquet, Arrow

FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
    "tags": {"feature": {"names": ["O", "B-X"], "_type": "ClassLabel"}, "_type": "List"},
}
VALUES = [
    {"text": "a clean room", "label": 1, "tags": [0, 1, 0]},
    {"text": "noisy", "label": 0, "tags": [0]},
    {"text": "nobody knows", "label": -1, "tags": []},
]
NAMED = [
    {"text": "a clean room", "label": "good", "tags": ["O", "B-X", "O"]},
    {"text": "noisy", "label": "bad", "tags": ["O"]},
    {"text": "nobody knows", "label": None, "tags": []},
]


def with_classes() -> Any:
    told = json.dumps({"info": {"features": FEATURES}})
    return pa.Table.from_pylist(VALUES).replace_schema_metadata({"huggingface": told})


def saved(folder: Path, *tables: Any) -> str:
    """As ``datasets`` saves to disk."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{len(tables):05}.arrow" for n in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def test_parquet_and_arrow_files(tmp_path: Path) -> None:
    table = with_classes()
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for name in ("a.parquet", "b.parquet.gz", "c.arrow"):
        file = str(tmp_path / name)
        assert rows(file) == list(zip("123", NAMED, strict=True))
        assert f"{file}: numbers in 'label' are the classes bad, good" in notes(file)


def test_parquet_values(tmp_path: Path) -> None:
    row = {
        "text": "x", "n": Decimal("2.50"), "i": Decimal("7"), "day": datetime.date(2013, 4, 5),
        "when": datetime.datetime(2013, 4, 5, 7), "raw": b"\x89PNG", "deep": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row, {"text": None}]), tmp_path / "a.parquet")
    file = str(tmp_path / "a.parquet")
    first, second = read(file)
    assert isinstance(first, Row)
    assert first.values == {
        "text": "x", "n": 2.5, "i": 7, "day": "2013-04-05", "when": "2013-04-05 07:00:00",
        "deep": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    assert isinstance(second, BadRow) and second.where == f"{file}:2"
    assert notes(file) == [f"{file}: the column 'raw' is left out: bytes, not text"]


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", with_classes(), with_classes())
    records = read(folder)
    found = list(records)
    assert [r.where for r in found] == [f"{folder}:{n}" for n in range(1, 7)]
    assert [r.values for r in found] == NAMED * 2
    assert list(records.hashes()) == [folder]
    before = records.hashes()
    saved(tmp_path / "all" / "train", with_classes())
    test = saved(tmp_path / "all" / "test", with_classes())
    data = DataConfig(train=folder, validation=test, on_bad_row="drop", on_leak="warn", format="labels")
    dataset = load_dataset(data, "classify", 1)
    assert dataset.ledger.rows == 9 and dataset.hashes[folder] == before[folder]
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"name one of them: .*all/test, .*all/train"):
        read(str(tmp_path / "all"))


def test_such_a_folder_does_not_lead_outside(tmp_path: Path) -> None:
    saved(tmp_path / "other", with_classes())
    folder = saved(tmp_path / "d", with_classes())
    for name in ("../other/data-00000-of-00001.arrow", str(tmp_path / "other" / "data-00000-of-00001.arrow")):
        (tmp_path / "d" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="outside"):
            list(read(folder))
    (tmp_path / "d" / "link.arrow").symlink_to(tmp_path / "other" / "data-00000-of-00001.arrow")
    (tmp_path / "d" / "state.json").write_text('{"_data_files": [{"filename": "link.arrow"}]}')
    with pytest.raises(DataError, match="outside"):
        list(read(folder))
    for broken in ("{", "[]", '{"_data_files": 3}', '{"_data_files": [{"filename": "no.arrow"}]}'):
        (tmp_path / "d" / "state.json").write_text(broken)
        with pytest.raises(DataError):
            list(read(folder))


def test_damaged_parquet(tmp_path: Path) -> None:
    pq.write_table(with_classes(), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for damaged in (whole[:-20], whole[:50] + b"\xff" * 40 + whole[90:], b"PAR1" + whole[-8:]):
        (tmp_path / "b.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            list(read(str(tmp_path / "b.parquet")))


# ---------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "around",
    [
        lambda items: {"data": items},
        lambda items: {"version": "1.1", "examples": items, "count": 2},
        lambda items: {"数据": items, "来源": []},
        lambda items: {"info": {"licence": "MIT"}, "my rows": items},
    ],
)
def test_rows_under_a_key(tmp_path: Path, around: Any, indent: int | None) -> None:
    items = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, 3]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(around(items), indent=indent, ensure_ascii=False))
    records = list(read(str(path)))
    assert [r.values for r in records if isinstance(r, Row)] == items[:2]
    assert isinstance(records[2], BadRow) and "a number" in records[2].problem
    key = next(key for key, value in around(items).items() if value == items)
    assert notes(str(path)) == [f"{path}: the rows are the list under {key!r}"]
    if indent:
        lines = path.read_text().splitlines()
        assert all("{" in lines[r.line - 1] for r in records if isinstance(r, Row)), "the line of each row"


def test_a_row_that_has_a_list_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for row in (
        {"messages": [{"role": "user", "content": "a"}]},
        {"question": "a", "sources": [{"url": "b"}]},
    ):
        path.write_text(json.dumps(row))
        assert rows(str(path)) == [("1", row)]
    path.write_text(json.dumps({"data": [{"a": 1}], "rows": [{"a": 1}]}))
    with pytest.raises(DataError, match="several lists of rows: 'data', 'rows'"):
        list(read(str(path)))


# ----------------------------------------------------------------------------------------- tables as text


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_in_a_text_file(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f'review{mark}label\n"a room{mark}\nclean"{mark}good\nnoisy{mark}bad\n')
    assert rows(str(path)) == [
        ("2", {"review": f"a room{mark}\nclean", "label": "good"}), ("4", {"review": "noisy", "label": "bad"}),
    ]  # fmt: skip
    assert "read as a table" in notes(str(path))[0]


def test_lines_that_are_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("one, two\nthree, four\n", "label\nx\n", "text,label\njust one cell\n"):
        path.write_text(text)
        assert [value for _, value in rows(str(path))] == [{"text": line} for line in text.splitlines()]
        assert notes(str(path)) == []
    path.write_text("a fine day\tgood\na bad day\tbad\n")
    assert len(rows(str(path))) == 2, "no row is taken for names of columns"
    assert "does not name columns" in notes(str(path))[0]


def test_the_line_excel_puts_first(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\ntext;label\na;b\n", encoding="utf-8-sig")
    assert rows(str(path)) == [("3", {"text": "a", "label": "b"})]


def test_packing_is_bounded_for_files_that_are_unpacked_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "FREE", 1 << 16)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"PAR1" + b" " * (8 << 20)))
    with pytest.raises(DataError, match="times its size"):
        list(read(str(tmp_path / "a.parquet.gz")))
