"""Readers: every row with its place, every bad row told, no traceback for any bytes."""

from __future__ import annotations

import csv
import io
import json
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunery.data.read import READERS, BadRow, read
from tunery.errors import DataError
from tunery.protocols import Row

fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return str(path)


def rows(file: str | list[str]) -> list[tuple[int, dict]]:
    records = list(read(file))
    assert all(isinstance(record, Row) for record in records), records
    return [(record.line, dict(record.values)) for record in records]


def bad(file: str) -> list[tuple[str, str]]:
    """Line and problem of the bad rows."""
    return [(r.where.rpartition(":")[2], r.problem) for r in read(file) if isinstance(r, BadRow)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.JSONL", "a.log"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ('{"a": 1}\n{"a": 2}\n', [1, 2]),
        ('{"a": 1}\r\n\r\n{"a": 2}', [1, 3]),
        ('\ufeff{"a": 1}\n{"a": 2}', [1, 2]),
        ('[{"a": 1},\n {"a": 2}]\n', [1, 2]),
        ('\ufeff\n[\n{\n"a": 1\n}\n,\n{"a": 2}\n]', [3, 7]),
        ('[{"a": 1}, {"a": 2}]', [1, 2]),  # all on one line: the number of the element
    ],
)
def test_json_content_decides(tmp_path: Path, name: str, content: str, lines: list[int]) -> None:
    found = rows(write(tmp_path, name, content))
    assert found == [(lines[0], {"a": 1}), (lines[1], {"a": 2})]


def test_json_values_stay_what_they_are(tmp_path: Path) -> None:
    value = {"i": 3, "f": 3.0, "b": True, "n": None, "l": ["x", 1], "o": {"k": "v"}, "s": "1\u2028二\U0001f600"}
    assert rows(write(tmp_path, "a.jsonl", json.dumps(value, ensure_ascii=False))) == [(1, value)]
    assert rows(write(tmp_path, "b.jsonl", json.dumps(value))) == [(1, value)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nope", "not JSON"),
        ('{"a": 1', "not JSON"),
        ('{"a": 1},', "not JSON: extra data"),
        ("[1]", "a list"),
        ('"x"', "a string"),
        ("null", "null"),
        ("true", "a boolean"),
        ("7", "a number"),
        ("{}", "without columns"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "too many digits"),
        ('{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_bad_lines_are_collected(tmp_path: Path, line: str | bytes, reason: str) -> None:
    raw = line.encode() if isinstance(line, str) else line
    file = write(tmp_path, "a.jsonl", b'{"a": 1}\n' + raw + b'\n{"a": 3}\nalso bad\n')
    records = list(read(file))
    assert [isinstance(record, Row) for record in records] == [True, False, True, False]
    assert records[1].where == f"{file}:2"
    assert reason in records[1].problem
    assert records[1].hint


def test_nan_is_a_number_for_the_format_to_judge(tmp_path: Path) -> None:
    ((_, values),) = rows(write(tmp_path, "a.jsonl", '{"a": NaN}'))
    assert values["a"] != values["a"]


def test_an_emoji_written_as_a_surrogate_pair_is_fine(tmp_path: Path) -> None:
    assert rows(write(tmp_path, "a.jsonl", '{"a": "\\ud83d\\ude00"}')) == [(1, {"a": "\U0001f600"})]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3, "not JSON"),
        ('[\n{"a": 1}\n{"a": 2}]', 3, "comma is missing"),
        ('[{"a": 1}', 1, "not closed"),
        ('[{"a": 1},\n]', 2, "not JSON"),
        ('[\n{"a": 1}]\n[]', 2, "more text"),
        ('[\n{"a": 1, "a": 1}]', 2, "stands twice"),
        ("[\n" + "[" * 100_000, 2, "nested too deeply"),
        (b'[\n{"a": "\xff"}]', 2, "not UTF-8"),
        ('{\n  "a": 1\n}', 1, "several lines"),
    ],
)
def test_a_broken_array_is_an_error_with_its_line(tmp_path: Path, content: str, line: int, reason: str) -> None:
    file = write(tmp_path, "a.json", content)
    with pytest.raises(DataError, match=reason) as caught:
        list(read(file))
    assert caught.value.where == f"{file}:{line}"
    assert caught.value.hint


def test_an_element_that_is_no_object_is_one_bad_row(tmp_path: Path) -> None:
    file = write(tmp_path, "a.json", '[\n{"a": 1},\n2,\n{"a": 3}]')
    assert bad(file) == [("3", "not an object but a number")]
    assert sum(isinstance(record, Row) for record in read(file)) == 2


def test_csv_quotes_newlines_and_lines(tmp_path: Path) -> None:
    content = '\ufefftext,label\n"a, ""b""\nc",x\n\n"d\r\n\r\ne",y\nf,z'
    assert rows(write(tmp_path, "a.csv", content)) == [
        (2, {"text": 'a, "b"\nc', "label": "x"}),
        (5, {"text": "d\r\n\r\ne", "label": "y"}),
        (8, {"text": "f", "label": "z"}),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text;label\na,b;x\n"),
        ("a.csv", "text\tlabel\na,b\tx\n"),
        ("a.csv", '"text";"label"\r\n"a,b";"x"\r\n'),
        ("a.tsv", "text\tlabel\na,b\tx\n"),
        ("a.csv", ',text , label\n0,"a,b",x\n'),  # the index that pandas writes has no name
        ("a.csv", 'text,label,\n"a,b",x,\n,,\n'),  # a spreadsheet's empty column and row
    ],
)
def test_csv_dialects(tmp_path: Path, name: str, content: str) -> None:
    assert rows(write(tmp_path, name, content)) == [(2, {"text": "a,b", "label": "x"})]


def test_csv_cells_may_be_long(tmp_path: Path) -> None:
    ((_, values),) = rows(write(tmp_path, "a.csv", "text\n" + "x" * 300_000))
    assert len(values["text"]) == 300_000


def test_csv_bad_rows(tmp_path: Path) -> None:
    content = b'text,label\na,x,y\nb\n"c"d,x\ne,\xff\n"f\n"g,y\nh,z\n'
    found = bad(write(tmp_path, "a.csv", content))
    assert [line for line, _ in found] == ["2", "3", "4", "5", "6", "7"]
    assert found[0][1] == "3 cells, the header has 2"
    assert "not UTF-8" in found[3][1]
    assert "not closed in its line" in found[4][1]
    assert "never closed" in found[5][1]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("text,text\na,x\n", 1, "two columns are called 'text'"),
        (b"te\xffxt,label\na,x\n", 1, "not UTF-8"),
        ('"text,label\na,x\n', 1, "header"),
    ],
)
def test_csv_errors_of_the_whole_file(tmp_path: Path, content: str | bytes, line: int, reason: str) -> None:
    file = write(tmp_path, "a.csv", content)
    with pytest.raises(DataError, match=reason) as caught:
        list(read(file))
    assert caught.value.where == f"{file}:{line}"


def test_plain_text_is_one_row_a_line(tmp_path: Path) -> None:
    file = write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\n\n  \n two\n\xff\n")
    assert [r.values for r in read(file) if isinstance(r, Row)] == [{"text": "one"}, {"text": " two"}]
    assert bad(file) == [("5", "not UTF-8 text")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", "", "empty"),
        ("a.csv", " \n\n", "empty"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.json", "[ \n ]\n", "no rows"),
        ("a.xlsx", b"PK\x03\x04\x14", "not a readable Excel workbook"),
        ("a.xlsx", b"text,label", "not a .xlsx file"),
        ("a.csv", b"PK\x03\x04\x14", "an archive"),
        ("a.jsonl", b"\0\1\2\3{", "not a text file"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "damaged"),
        ("a.xls", b"\xd0\xcf\x11\xe0", "old Excel file"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.md", "# Title", "unknown kind of file '.md'"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    file = write(tmp_path, name, content)
    with pytest.raises(DataError, match=reason) as caught:
        list(read(file))
    assert caught.value.where == file
    assert caught.value.hint


def test_missing_files_and_folders_are_found_before_anything_is_read(tmp_path: Path) -> None:
    good = write(tmp_path, "a.jsonl", '{"a": 1}')
    with pytest.raises(DataError, match="no such file"):
        read([good, str(tmp_path / "none.jsonl")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="a folder without data files"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        read("a\0b.jsonl")


def test_several_files_and_names_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jsonl", '{"a": 1}')
    write(tmp_path, "b.csv", "a\n2\n")
    monkeypatch.chdir(tmp_path)
    assert [record.where for record in read(["./a.jsonl", "b.csv"])] == ["./a.jsonl:1", "b.csv:2"]


# --------------------------------------------------------------------------------------------------- fuzz

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
piece = st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r\n", b"\t", b";", b"\\", b"a", b"1"])
odd = st.sampled_from([b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"NaN", b'{"a":1}', b"\0", "文".encode(), b"-1e999", b" "])


@fuzz
@given(suffix=st.sampled_from([*READERS, ".unknown"]), parts=st.lists(piece | odd | st.binary(max_size=4), max_size=40))
def test_any_bytes_give_rows_bad_rows_or_a_data_error(tmp_path: Path, suffix: str, parts: list[bytes]) -> None:
    file = write(tmp_path, f"fuzz{suffix}", b"".join(parts))
    last = 0
    try:
        for record in read(file):
            assert isinstance(record, Row | BadRow)
            name, _, line = record.where.rpartition(":")
            assert name == file
            assert int(line) > last, "a place belongs to one row"
            last = int(line)
            if isinstance(record, Row):
                assert record.values
                str(record.values).encode("utf-8")
    except DataError as error:
        assert error.problem
        assert error.where.startswith(file)


@fuzz
@given(values=st.lists(st.dictionaries(st.sampled_from("abc"), text, min_size=1), min_size=1, max_size=8))
@pytest.mark.parametrize("shape", ["lines", "array", "indented"])
def test_json_round_trip(tmp_path: Path, shape: str, values: list[dict[str, str]]) -> None:
    if shape == "lines":
        content = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    else:
        content = json.dumps(values, ensure_ascii=False, indent=2 if shape == "indented" else None)
    found = rows(write(tmp_path, "a.json", content))
    assert [value for _, value in found] == values


cell = st.text(st.sampled_from(string.ascii_letters + ' ,;"\n\r\t文'), max_size=20)


@fuzz
@given(values=st.lists(st.tuples(cell.map("x".__add__), cell), min_size=1, max_size=8))
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_csv_round_trip(tmp_path: Path, suffix: str, values: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    table = csv.writer(stream, delimiter="\t" if suffix == ".tsv" else ",")
    table.writerows([("a", "b"), *values])
    found = rows(write(tmp_path, f"a{suffix}", stream.getvalue()))
    assert [(value["a"], value["b"]) for _, value in found] == values


@pytest.mark.parametrize(
    ("content", "lines", "bad"),
    [
        ('text,label\na,x\n"b,y\nc,z\nd,z\n', [2, 4, 5], {3: "never closed"}),
        ('text,label\n"b,y\nc,"z, z"\nd,z\n', [3, 4], {2: "not closed in its line"}),
        ('text,label\n"b\nc" d,z\ne,z\n', [4], {2: "broken quotes in lines 2 to 3"}),
        ('text,label\n"a,x\n"b,x\nc,x\n', [4], {2: "closed", 3: "closed"}),
    ],
)
def test_a_lost_quote_costs_its_own_row(tmp_path: Path, content: str, lines: list[int], bad: dict[int, str]) -> None:
    found = list(read(write(tmp_path, "a.csv", content)))
    assert [record.line for record in found if isinstance(record, Row)] == lines
    said = {int(r.where.rpartition(":")[2]): r.problem for r in found if isinstance(r, BadRow)}
    assert said.keys() == bad.keys()
    assert all(words in said[line] for line, words in bad.items())
