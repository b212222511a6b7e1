"""``tunery init``: what it writes is accepted as it is, says why, and never replaces anything unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import verbs
from small import documents, labelled, questions, scored, several, write
from tunery import config
from tunery.config import yaml12
from tunery.errors import DataError
from tunery.protocols import Example
from tunery.run.check import check
from tunery.run.init import init
from tunery.run.prepare import prepare
from tunery.run.sniff import assign, languages

CHAT = [
    {"messages": [{"role": "user", "content": f"问题 {i}"}, {"role": "assistant", "content": f"答案 {i}"}]}
    for i in range(30)
]
DATA: dict[str, tuple[list[Any], str, str]] = {
    "labels": (labelled(40), "labels", "classify"),
    "renamed": ([{"review": r["text"], "stars": i % 3} for i, r in enumerate(labelled(40))], "labels", "classify"),
    "several": (several(40), "labels", "classify"),
    "numbers": ([{"text": f"{i} words", "score": i + 0.25} for i in range(40)], "labels", "regress"),
    "questions": (questions(40), "qa", "instruct"),
    "alpaca": ([{"instruction": f"say {i}", "input": "", "output": f"{i}"} for i in range(30)], "alpaca", "instruct"),
    "chat": (CHAT, "chat", "instruct"),
    "documents": (documents(30), "text", "lm"),
    "bad": (["not json", *labelled(40), {"text": "", "label": "good"}], "labels", "classify"),
    "long": ([{"text": "parcel " * 900 + str(i), "label": "ab"[i % 2]} for i in range(40)], "labels", "classify"),
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def model_for(task: str, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue("tiny_bert" if task in ("classify", "regress") else "tiny_llama")
    return path


@pytest.mark.parametrize("name", DATA)
def test_what_is_written_is_accepted(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, form, task = DATA[name]
    write(Path("data.jsonl"), rows)
    model = model_for(task, request)
    answer = verbs.call(capsys, "init", "data.jsonl", "--model", model, "--json")
    assert answer.code == 0, answer.err
    found = answer.value
    assert (found["config"], found["format"], found["task"]) == ("tunery.yaml", form, task)
    assert found["rows"] == len([row for row in rows if row != "not json" and row != {"text": "", "label": "good"}])
    text = Path("tunery.yaml").read_text(encoding="utf-8")
    assert yaml12.load(text) == found["values"]
    assert 8 <= sum(len(keys) for keys in found["values"].values()) <= 16
    assert check(config.load("tunery.yaml"))["exit_code"] == 0
    assert prepare(config.load("tunery.yaml")).dataset.task == task


@pytest.mark.parametrize(
    ("name", "model"), [("labels", "minilm"), ("numbers", "minilm"), ("questions", "smollm2"), ("documents", "smollm2")]
)
def test_default_models(name: str, model: str) -> None:
    write(Path("data.jsonl"), DATA[name][0])
    assert init(["data.jsonl"])["values"]["model"]["name"] == model


def test_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.csv").write_text("review,stars\n" + "".join(f"words {i},{i % 2}\n" for i in range(20)), encoding="utf-8")
    answer = verbs.call(capsys, "init", "r.csv")
    assert answer.code == 0 and "tunery.yaml written" in answer.out and "review (text), stars (label)" in answer.out
    text = Path("tunery.yaml").read_text(encoding="utf-8")
    assert "# sniffed: columns review, stars" in text and "columns: {text: review, label: stars}" in text
    assert "0 10, 1 10" in text and "held out for validation" in text
    assert "\n\n\n" not in text and all(len(line) < 200 for line in text.splitlines())


def test_nothing_is_replaced_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("data.jsonl"), labelled(20))
    Path("tunery.yaml").write_text("mine", encoding="utf-8")
    refused = verbs.call(capsys, "init", "data.jsonl", "--json")
    assert refused.code == 2 and "--force" in refused.error["hint"]
    assert Path("tunery.yaml").read_text(encoding="utf-8") == "mine"
    assert verbs.call(capsys, "init", "data.jsonl", "--force").code == 0
    before = Path("tunery.yaml").read_bytes()
    assert verbs.call(capsys, "init", "none.jsonl", "--force", "--json").code == 3
    assert Path("tunery.yaml").read_bytes() == before, "a failed init leaves the old file"


def test_splits_by_the_names_of_the_files() -> None:
    folder = Path("data")
    folder.mkdir()
    for name in ("train", "dev", "test", "other"):
        write(folder / f"{name}.jsonl", labelled(20, seed=len(name)))
    found = init(["data/train.jsonl"])
    expected = {"train": "data/train.jsonl", "validation": "data/dev.jsonl", "test": "data/test.jsonl"}
    assert {split: found["values"]["data"][split] for split in expected} == expected
    assert sum("stands beside it" in note for note in found["notes"]) == 2
    assert not any("held out" in note for note in found["notes"])
    assert set(init(["data/other.jsonl"], force=True)["splits"]) == {"train"}


def test_files_called_test_are_never_trained_on_by_accident() -> None:
    names = ["x/dev.csv", "x/test.csv", "x/train.csv", "more.csv"]
    splits, notes = assign(names)
    assert splits == {"validation": ["x/dev.csv"], "test": ["x/test.csv"], "train": ["x/train.csv", "more.csv"]}
    assert len(notes) == 2
    assert assign(["x/test.csv"])[0] == {"train": ["x/test.csv"]}, "the only file is what there is"


def test_unusable_rows() -> None:
    write(Path("data.jsonl"), DATA["bad"][0])
    found = init(["data.jsonl"])
    assert found["values"]["data"]["on_bad_row"] == "drop"
    assert any("2 rows cannot be used" in note and "data.jsonl:1" in note for note in found["notes"])
    write(Path("train.jsonl"), labelled(20))
    write(Path("test.jsonl"), [*labelled(5), {"text": "x", "label": "neutral"}])
    assert init(["train.jsonl"], force=True)["values"]["data"]["on_bad_row"] == "drop"


def test_chinese_text_and_an_english_base() -> None:
    write(Path("data.jsonl"), [{"text": f"这家酒店很好 {i}", "label": "坏" if i % 2 else "好"} for i in range(40)])
    found = init(["data.jsonl"])
    assert found["languages"] == {"chinese": 1.0}
    text = Path("tunery.yaml").read_text(encoding="utf-8")
    assert "100% of the rows are Chinese and the base minilm is English" in text and "好 20, 坏 20" in text
    assert any("minilm is English" in note for note in found["notes"])


def test_languages() -> None:
    def text(given: str) -> Example:
        return Example("f", 1, text=given)

    shares = languages(map(text, ["what is this", "这是什么", "请用 Python 写一个函数", "これは何ですか", "123"]))
    assert shares == {"chinese": 0.4, "other": 0.4, "latin": 0.2}


def test_long_rows_get_a_longer_limit() -> None:
    write(Path("data.jsonl"), [{"text": "parcel " * (10 + i * 6), "label": "ab"[i % 2]} for i in range(40)])
    assert init(["data.jsonl"])["values"]["data"]["max_length"] == 512
    write(Path("data.jsonl"), DATA["long"][0])
    assert init(["data.jsonl"], force=True)["values"]["data"]["on_long"] == "truncate"


def test_overrides_are_written(tiny_llama: Path) -> None:
    write(Path("data.jsonl"), [{"body": "a b", "comment": "c", "label": i % 2} for i in range(20)])
    with pytest.raises(DataError, match="several columns") as caught:
        init(["data.jsonl"])
    assert "data.columns.text=body" in caught.value.hint and not Path("tunery.yaml").exists()
    write(Path("data.jsonl"), [{"body": f"a {i}", "comment": "c", "label": i % 2} for i in range(20)])
    found = init(["data.jsonl"], method="lora", overrides=["data.columns.text=body", "method.r=16", "train.lr=1e-4"])
    assert found["columns"]["text"] == "body" and found["values"]["train"]["lr"] == 1e-4
    assert config.load("tunery.yaml").method.model_dump()["r"] == 16
    write(Path("data.jsonl"), questions(20))
    init(["data.jsonl"], str(tiny_llama), overrides=["task.system=Be brief: yes #1"], force=True)
    assert config.load("tunery.yaml").task.model_dump()["system"] == "Be brief: yes #1"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "Missing argument"),
        (["train.lr=1"], 2, "name a data file"),
        (["q.jsonl", "--model", "minilm"], 2, "minilm is an encoder"),
        (["q.jsonl", "--model", "smolm2"], 6, "unknown pack"),
        (["q.jsonl", "--model", "./nothing"], 6, "no such model"),
        (["q.jsonl", "--method", "lorra"], 2, "unknown method"),
        (["q.jsonl", "train.lrr=1"], 2, "unknown key"),
        (["none.jsonl"], 3, "no such file"),
        (["one.jsonl"], 3, "the same label"),
        (["odd.jsonl"], 3, "no format fits"),
    ],
)
def test_refusals(args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("q.jsonl"), questions(20))
    write(Path("one.jsonl"), [{"text": f"t {i}", "label": "a"} for i in range(9)])
    write(Path("odd.jsonl"), [{"alpha": 1, "beta": 2}])
    answer = verbs.call(capsys, "init", *args, "--json")
    assert answer.code == code and words in answer.error["problem"], answer.err
    assert not Path("tunery.yaml").exists()


def test_scored_rows_with_few_numbers_are_classes() -> None:
    write(Path("data.jsonl"), scored(40))
    assert init(["data.jsonl"])["task"] == "classify"
