"""Where data comes from: encodings, packed files, folders, patterns, pipes, files side by side."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from small import labelled
from tunery.config import DataConfig
from tunery.data import encodings, inputs, source
from tunery.data.read import BadRow, read
from tunery.errors import ConfigError, DataError, TuneryError
from tunery.protocols import Row
from tunery.run.dataset import load_dataset

HOTELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "chnsenticorp_hotel_zh_sentiment" / "train.jsonl"
ROWS = 300
SUFFIXES = {",": ".csv", "\t": ".tsv", ";": ".csv"}
needs_hotels = pytest.mark.skipif(not HOTELS.is_file(), reason=f"no shared data at {HOTELS}")


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def values(files: Any, **settings: Any) -> list[dict[str, Any]]:
    records = list(read(files, **settings))
    assert all(isinstance(record, Row) for record in records), records
    return [dict(record.values) for record in records]


def bad(files: Any, **settings: Any) -> list[tuple[str, str]]:
    """Line and problem of the bad rows."""
    found = [r for r in read(files, **settings) if isinstance(r, BadRow)]
    return [(r.where.rpartition(":")[2], r.problem) for r in found]


def notes(files: Any, **settings: Any) -> list[str]:
    records = read(files, **settings)
    list(records)
    return records.notes


# ------------------------------------------------------------------------------------------------ encodings


@cache
def hotels(traditional: bool) -> tuple[tuple[str, str], ...]:
    with HOTELS.open(encoding="utf-8") as stream:
        rows = [json.loads(next(stream)) for _ in range(ROWS)]
    pairs = [(row["text"], row["label"]) for row in rows]
    if not traditional:
        return tuple(pairs)
    from opencc import OpenCC

    convert = OpenCC("s2t").convert
    # a few characters of simplified texts have no place in Big5, whatever is made of them
    texts = [convert(text).encode("big5", "ignore").decode("big5") for text, _ in pairs]
    return tuple((text, label) for text, (_, label) in zip(texts, pairs, strict=True))


def table(rows: tuple[tuple[str, str], ...], mark: str) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=mark)
    writer.writerows([("text", "label"), *rows])
    return stream.getvalue()


@needs_hotels
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("mark", SUFFIXES, ids=["comma", "tab", "semicolon"])
@pytest.mark.parametrize(
    ("encoding", "traditional", "named"),
    [
        ("utf-8", False, ""),
        ("utf-8-sig", False, ""),
        ("utf-16", False, "UTF-16"),
        ("utf-16-le", False, "UTF-16 (little-endian"),
        ("utf-16-be", False, "UTF-16 (big-endian"),
        ("gb18030", False, "GB18030"),
        ("gbk", False, "GB18030"),
        ("utf-8", True, ""),
        ("big5", True, "Big5"),
    ],
)
def test_the_same_rows_in_every_encoding(
    tmp_path: Path, encoding: str, traditional: bool, named: str, mark: str, packed: bool
) -> None:
    rows = hotels(traditional)
    if encoding == "gbk":
        rows = tuple((text.encode("gbk", "ignore").decode("gbk"), label) for text, label in rows)
    raw = table(rows, mark).encode(encoding)
    for suffix in {SUFFIXES[mark], ".txt"}:
        name = f"a{suffix}.gz" if packed else f"a{suffix}"
        file = write(tmp_path / name, gzip.compress(raw, mtime=0) if packed else raw)
        records = read(file)
        assert [tuple(record.values.values()) for record in records] == list(rows)
        told = [note for note in records.notes if "read as" in note and "a table" not in note]
        assert len(told) == bool(named)
        assert not named or (f"read as {named}" in told[0] and "data.encoding=NAME" in told[0])
        assert "guess" not in "".join(told)


@needs_hotels
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize(("encoding", "traditional"), [("gb18030", False), ("gb18030", True), ("big5", True)])
def test_short_chinese_files(tmp_path: Path, rows: int, encoding: str, traditional: bool) -> None:
    """Every piece of the set by itself: GB18030 and Big5 are told apart, and a wrong answer would not be a sure one."""
    for start in range(0, ROWS, max(rows, 10)):
        part = hotels(traditional)[start : start + rows]
        text = "".join(json.dumps({"text": t, "label": x}, ensure_ascii=False) + "\n" for t, x in part)
        file = write(tmp_path / "a.jsonl", text.encode(encoding))
        assert [value["text"] for value in values(file)] == [text for text, _ in part]


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("text,label\nLe café était très agréable,bon\nPrès de la gare — « bruyant »,mauvais\n", "cp1252", "cp1252"),
        ("text,label\nEr sagte: „Schöne Grüße“ aus Köln,gut\nDas Frühstück war übel,schlecht\n", "cp1252", "cp1252"),
        ("text,label\nОтличная гостиница рядом с вокзалом,да\nОчень грязный номер,нет\n", "cp1251", "cp1251"),
        ("text,label\nこのホテルはとても良いです。,良い\n部屋が汚くて寒かった,悪い\n", "cp932", "Shift JIS (cp932)"),
        ("text,label\n이 호텔은 매우 좋습니다,좋음\n방이 더럽고 추웠어요,나쁨\n", "cp949", "EUC-KR (cp949)"),
    ],
)  # fmt: skip
def test_other_encodings(tmp_path: Path, text: str, encoding: str, named: str) -> None:
    file = write(tmp_path / "a.csv", text.encode(encoding))
    expected = list(csv.DictReader(io.StringIO(text)))
    assert values(file) == expected
    assert f"{file}: read as {named} (confidence 0." in notes(file)[0]
    assert values(file, encoding=encoding) == expected
    assert notes(file, encoding=encoding) == [], "what the user said needs no note"


def test_the_first_other_character_may_come_late(tmp_path: Path) -> None:
    plain = '{"text": "all is well", "label": "good"}\n'
    lines = plain * 60_000 + '{"text": "房间很干净，服务也很好，下次还会来", "label": "好"}\n' * 5
    file = write(tmp_path / "a.jsonl", lines.encode("gb18030"))
    assert len(lines.encode()) > 2 << 20
    assert values(file)[-1]["label"] == "好"
    (note,) = notes(file)
    assert "GB18030" in note


def test_one_long_line(tmp_path: Path) -> None:
    rows = [{"text": f"房间很干净，服务也很好，下次还会来 {i}", "label": "好"} for i in range(3000)]
    file = write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False).encode("gb18030"))
    assert values(file) == rows


def test_a_guess_is_called_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "The café is closed\nand so is the bar\n".encode("cp1252"))
    assert values(file)[0] == {"text": "The café is closed"}
    assert "a guess" in notes(file)[0]


def test_broken_rows_do_not_change_the_encoding(tmp_path: Path) -> None:
    good = [f"房间很干净，服务也很好，第{i}次来".encode() for i in range(20)]
    file = write(tmp_path / "utf8.txt", b"\n".join([*good[:5], b"\xff\xfe\xc4\xe3\xba\xc3", *good[5:]]))
    assert bad(file) == [("6", "not UTF-8 text")]
    assert notes(file) == []
    chinese = [line.decode().encode("gb18030") for line in good]
    file = write(tmp_path / "gb.txt", b"\n".join([*chinese[:5], chinese[5] + b"\xff\xff", *chinese[6:], b"\x80"]))
    assert bad(file) == [("6", "not GB18030 text"), ("21", "not GB18030 text")]
    assert len(list(read(file))) == 21
    lines = [json.dumps({"text": line.decode()}, ensure_ascii=False).encode("gb18030") for line in good]
    file = write(tmp_path / "gb.jsonl", b"\n".join([*lines, b'{"text": "\xff"}', b'{"text": "ok"}']))
    assert bad(file) == [("21", "not GB18030 text")]


def test_half_a_character_is_no_other_encoding(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"only ascii\nbut cut: \xe4\xbd\n")
    assert bad(file) == [("2", "not UTF-8 text")]


def test_encoding_by_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "繁體中文".encode("big5"))
    assert values(file, encoding="Big5") == [{"text": "繁體中文"}]
    assert bad(file, encoding="utf8") == [("1", "not UTF-8 text")]
    for name in ("base64", "no-such", "", "rot13"):
        with pytest.raises(ConfigError, match="unknown encoding"):
            encodings.named(name)
    rows = "".join(f'{{"text": "文本{i}", "label": "{"好坏"[i % 2]}"}}\n' for i in range(20))
    data = DataConfig(train=write(tmp_path / "b.jsonl", rows.encode("gbk")), encoding="gbk")
    dataset = load_dataset(data, None, 1)
    assert sum(map(len, dataset.splits.values())) == 20
    assert not any("read as GB18030" in note for note in dataset.notes)


# ------------------------------------------------------------------------------------ line ends, zero bytes


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_line_ends(tmp_path: Path, end: str, encoding: str) -> None:
    def lines(*given: str) -> bytes:
        return "".join(line + end for line in given).encode(encoding)

    first, second = "房间很干净，服务也很好，下次还会来", "酒店离车站不远，早餐也不错"
    file = write(tmp_path / "a.txt", lines(first, "", second))
    assert [(r.line, r.values) for r in read(file)] == [(1, {"text": first}), (3, {"text": second})]
    file = write(tmp_path / "a.jsonl", lines(f'{{"text": "{first}"}}', f'{{"text": "{second}"}}', "{"))
    assert [r.where.rpartition(":")[2] for r in read(file)] == ["1", "2", "3"]
    file = write(tmp_path / "a.csv", lines("text,label", f'"{first}",好', f"{second},坏"))
    assert [(r.line, r.values["text"]) for r in read(file)] == [(2, first), (3, second)]
    file = write(tmp_path / "a.conll", lines("北 B-LOC", "京 I-LOC", "", "房 O", "间 O"))
    assert [(r.line, r.values["words"]) for r in read(file)] == [(1, ["北", "京"]), (4, ["房", "间"])]
    file = write(tmp_path / "a.json", lines("[", f'{{"text": "{first}"}},', f'{{"text": "{second}"}}', "]"))
    assert [(r.line, r.values["text"]) for r in read(file)] == [(2, first), (3, second)]


def test_a_piece_may_end_between_cr_and_lf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_CHUNK", 7)
    text = "房间\r很干净\r\r服务也很好，下次还会来\r"
    file = write(tmp_path / "a.txt", text.encode("gb18030"))
    assert [(r.line, r.values["text"]) for r in read(file, "gb18030")] == [
        (1, "房间"),
        (2, "很干净"),
        (4, "服务也很好，下次还会来"),
    ]


def test_a_zero_byte_spoils_its_row(tmp_path: Path) -> None:
    zero = "a zero byte (NUL) in the text"
    assert bad(write(tmp_path / "a.txt", "one\nt\0wo\nthree\n")) == [("2", zero)]
    assert bad(write(tmp_path / "a.csv", "text,label\na,b\nc\0,d\ne,f\n")) == [("3", zero)]
    assert bad(write(tmp_path / "a.conll", "a O\nb\0 B-X\n\nc O\n")) == [("2", zero)]
    ((line, problem),) = bad(write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b\0"}\n{"text": "c"}\n'))
    assert line == "2" and "not JSON" in problem
    with pytest.raises(DataError, match="not a text file"):
        read(write(tmp_path / "b.csv", bytes(range(256)) * 4))


# ------------------------------------------------------------------------------------------------- packed


def test_packed_files(tmp_path: Path) -> None:
    raw = '{"text": "a"}\n{"text": "b"}\n'
    for name in ("a.jsonl.gz", "b.json.gz", "c.gz", "d.jsonl"):
        file = write(tmp_path / name, gzip.compress(raw.encode()))
        assert [(r.where, r.values["text"]) for r in read(file)] == [(f"{file}:1", "a"), (f"{file}:2", "b")]
    whole = gzip.compress(raw.encode() * 5000)
    for damaged in (whole[:-9], whole[: len(whole) // 2], whole[:30] + b"\0\0\0\0" + whole[34:]):
        with pytest.raises(DataError, match="packed file is damaged"):
            list(read(write(tmp_path / "x.jsonl.gz", damaged)))


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FREE", 1 << 20)
    for name, content in (("a.jsonl.gz", b"[" + b" " * (8 << 20)), ("a.csv.gz", b"text\n" + b'"' + b"a" * (8 << 20))):
        with pytest.raises(DataError, match="times its size"):
            list(read(write(tmp_path / name, gzip.compress(content, mtime=0))))


# -------------------------------------------------------------------------------------- folders and patterns


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d" / "b.csv", "text\n2\n")
    write(tmp_path / "d" / "a.jsonl", '{"text": "1"}\n')
    write(tmp_path / "d" / "sub" / "c.txt.gz", gzip.compress(b"3\n", mtime=0))
    for hidden in ("d/.hidden.jsonl", "d/.git/config.json", "d/readme.md"):
        write(tmp_path / hidden, "x")
    records = read("d")
    assert [(r.where, r.values["text"]) for r in records] == [
        ("d/a.jsonl:1", "1"), ("d/b.csv:2", "2"), ("d/sub/c.txt.gz:1", "3"),
    ]  # fmt: skip
    assert records.notes == ["d: 3 data files are read; left out: readme.md"]
    assert sorted(records.hashes()) == ["d/a.jsonl", "d/b.csv", "d/sub/c.txt.gz"]


def test_a_folder_of_splits_is_not_one_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "dev.jsonl", "test.jsonl"):
        write(tmp_path / "d" / name, '{"text": "1"}\n')
    with pytest.raises(DataError, match="several splits"):
        read(tmp_path / "d")
    assert {inputs.role(name) for name in inputs.expand(str(tmp_path / "d"))} == {"train", "validation", "test"}
    found = inputs.expand(str(tmp_path / "d"))
    assert len(found) == 4


def test_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("d/2.jsonl", "d/1.jsonl", "d/.3.jsonl", "d/other.txt", "d/e/4.jsonl"):
        write(tmp_path / name, '{"text": "1"}\n')
    assert [r.file for r in read("d/*.jsonl")] == ["d/1.jsonl", "d/2.jsonl"]
    assert [r.file for r in read("d/**/*.jsonl")] == ["d/1.jsonl", "d/2.jsonl", "d/e/4.jsonl"]
    assert [r.file for r in read(str(tmp_path / "d" / "[12].jsonl"))] == [str(tmp_path / f"d/{n}.jsonl") for n in "12"]
    with pytest.raises(DataError, match="no file matches"):
        read("d/*.csv")
    write(tmp_path / "d/[x].jsonl", '{"text": "literal"}\n')
    assert values("d/[x].jsonl") == [{"text": "literal"}], "a file of that very name comes first"


def test_links_that_lead_outside(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret" / "passwords.txt", "hunter2\n")
    write(tmp_path / "d" / "a.txt", "fine\n")
    (tmp_path / "d" / "b.txt").symlink_to(tmp_path / "d" / "a.txt")
    (tmp_path / "d" / "c.txt").symlink_to(secret)
    for name in (str(tmp_path / "d"), str(tmp_path / "d" / "*.txt")):
        with pytest.raises(DataError, match=r"leads outside: .*c\.txt"):
            read(name)
    (tmp_path / "d" / "c.txt").unlink()
    (tmp_path / "d" / "more").symlink_to(tmp_path / "secret")
    for name in (str(tmp_path / "d"), str(tmp_path / "d" / "**" / "*.txt")):
        with pytest.raises(DataError, match="leads outside"):
            read(name)
    (tmp_path / "link.txt").symlink_to(secret)
    assert values(str(tmp_path / "link.txt")) == [{"text": "hunter2"}], "what is named itself is meant"


def test_a_file_that_is_named_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d" / "a.txt", "x\n")
    for names in (["d", "d/a.txt"], ["d/a.txt", "./d/a.txt"], ["d/*", "d/a.*"]):
        with pytest.raises(ConfigError, match="named twice"):
            read(names)


@pytest.mark.parametrize(
    "name", ["https://example.org/a.csv", "http://x/y", "s3://bucket/a.jsonl", "file:///etc/hosts"]
)
def test_urls_are_not_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a connection"))
    with pytest.raises(DataError, match="does not fetch"):
        read(name)


def test_urls_in_the_data_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a connection"))
    row = {"text": "http://example.org/a.csv", "label": "hf:owner/name"}
    assert values(write(tmp_path / "a.jsonl", json.dumps(row))) == [row]


# ------------------------------------------------------------------------------------------ standard input


@pytest.mark.parametrize(
    ("piped", "expected"),
    [
        ('{"text": "a", "label": "b"}\n', {"text": "a", "label": "b"}),
        ('[{"text": "a"}]', {"text": "a"}),
        ("text;label\na;b\nc;d\n", {"text": "a", "label": "b"}),
        ("just, a line\nand another\n", {"text": "just, a line"}),
        ("北 B-LOC\n京 I-LOC\n", {"words": ["北", "京"], "tags": ["B-LOC", "I-LOC"]}),
        ("文本,标签\n房间很干净，服务也很好,好\n".encode("gb18030"), {"文本": "房间很干净，服务也很好", "标签": "好"}),
        (gzip.compress(b'{"text": "a"}\n', mtime=0), {"text": "a"}),
    ],
)
def test_standard_input(piped: str | bytes, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    raw = piped.encode() if isinstance(piped, str) else piped
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    for _ in range(2):  # it can be read again
        first = next(iter(read("-")))
        assert isinstance(first, Row)
        assert first.values == expected and first.file == "-"


def test_one_split_may_come_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in labelled(30))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows.encode())))
    dataset = load_dataset(DataConfig(train="-"), None, 1)
    assert dataset.ledger.rows == 30 and list(dataset.hashes) == ["-"]
    with pytest.raises(ConfigError, match="only one split"):
        load_dataset(DataConfig(train="-", test="-"), None, 1)


# ------------------------------------------------------------------------------------------- side by side


def test_a_file_for_each_column(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts.txt", "good room\nbad room\n\nthe last\n")
    labels = write(tmp_path / "labels.txt", "好\r\n坏\r\n\r\n好\r\n".encode("utf-16"))
    records = read({"text": texts, "label": labels})
    assert [(r.where, r.values) for r in records] == [
        (f"{texts}:1", {"text": "good room", "label": "好"}),
        (f"{texts}:2", {"text": "bad room", "label": "坏"}),
        (f"{texts}:4", {"text": "the last", "label": "好"}),
    ]
    assert sorted(records.hashes()) == sorted([texts, labels])
    assert records.notes == [f"{labels}: read as UTF-16 (confidence 1.00; data.encoding=NAME to say otherwise)"]
    write(tmp_path / "labels.txt", b"a\n\xff\nc\nd\n")
    assert bad({"text": texts, "label": labels}) == [("2", f"{labels}:2: not UTF-8 text")]


def test_files_of_different_lengths(tmp_path: Path) -> None:
    source = write(tmp_path / "a.en", "one\ntwo\nthree\n")
    target = write(tmp_path / "a.de", "eins\nzwei\n")
    with pytest.raises(DataError, match=r"a\.en has 3, .*a\.de has 2"):
        list(read({"prompt": source, "response": target}))
    write(tmp_path / "a.de", "eins\nzwei\ndrei\n")
    dataset = load_dataset(DataConfig(train={"prompt": source, "response": target}), None, 1)
    assert dataset.format == "pairs" and dataset.ledger.rows == 3
    for wrong in ({"text": source}, {"text": source, "label": write(tmp_path / "b.csv", "x\n")}):
        with pytest.raises(TuneryError):
            read(wrong)


# ------------------------------------------------------------------------------------------------- names


def test_names() -> None:
    assert inputs.label("data/test.jsonl.gz") == "test"
    assert inputs.label("-") == "stdin"
    assert inputs.label("hf:owner/some-set/test") == "test"
    assert inputs.label("book.xlsx#Sheet 2") == "book"
    assert inputs.label("d/*.jsonl") == "data"
    assert inputs.label({"text": "a.txt", "label": "b.txt"}) == "a"
    assert inputs.absolute(None) is None
    assert inputs.absolute(["-", "hf:a/b", "org/name"]) == ["-", "hf:a/b", "org/name"]
    assert inputs.absolute({"text": "a.txt"}) == {"text": str(Path("a.txt").absolute())}
