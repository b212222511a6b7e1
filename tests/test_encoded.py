"""Rows as arrays on disk are the rows; what was encoded once is not encoded again, unless anything has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tunery
from small import ROWS, labelled
from tunery import config as configuration
from tunery.data.encoded import EncodedRows, UnevenRowsError, Writer, columns_of
from tunery.errors import DataError
from tunery.protocols import Encoded
from tunery.run import encode_cache
from tunery.run.prepare import prepare

SPLIT = [
    Encoded(ids=[1, 2, 3], labels=[-100, 2, 3], row=0),
    Encoded(ids=[4, 5], labels=[-100, 5], row=1, truncated=True),
    Encoded(ids=[6], labels=[-100], row=1),
]
KINDS: dict[str, list[Encoded]] = {
    "labels": SPLIT,
    "class": [Encoded(ids=[1, 2], target=3), Encoded(ids=[1], target=0, row=1)],
    "number": [Encoded(ids=[1, 2], target=0.5, type_ids=[0, 1])],
    "several": [Encoded(ids=[1, 2], target=[1.0, 0.0]), Encoded(ids=[7], target=[0.0, 0.0])],
    "tags": [Encoded(ids=[1, 2], tags=[-100, 4])],
    "answer": [Encoded(ids=[1, 2], answer=[9, 9, 9]), Encoded(ids=[1], answer=[3])],
    "span": [
        Encoded(ids=[1, 2], span=(0, 1), offsets=[(0, 0), (0, 4)]),
        Encoded(ids=[1], span=(0, 0), offsets=[(2, 3)]),
    ],
    "bare": [Encoded(ids=[1, 2])],
}  # fmt: skip


def written(folder: Path, *parts: Sequence[Encoded]) -> EncodedRows:
    writer = Writer(folder)
    for part in parts:
        writer.add(columns_of(part))
    writer.close()
    return EncodedRows.load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_give_the_rows_back(kind: str, tmp_path: Path) -> None:
    rows = KINDS[kind]
    found = written(tmp_path, rows, rows)
    assert list(found) == rows + rows
    assert found[-1] == rows[-1]
    assert found[:2] == (rows + rows)[:2]
    assert found.lengths == [row.length for row in rows + rows]
    assert found.supervised == 2 * sum(row.supervised for row in rows)


def test_rows_of_several_kinds_are_no_columns(tmp_path: Path) -> None:
    with pytest.raises(UnevenRowsError):
        columns_of([*KINDS["class"], *KINDS["bare"]])
    with pytest.raises(UnevenRowsError):
        columns_of([*KINDS["class"], *KINDS["number"]])
    with pytest.raises(UnevenRowsError):
        written(tmp_path, KINDS["class"], KINDS["labels"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rows are many."""
    for name, value in {"AT_A_TIME": 7, "ON_DISK": 20, "SEVERAL": 20}.items():
        monkeypatch.setattr(encode_cache, name, value)


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config(model: Path, train: str, *more: str) -> configuration.Config:
    return configuration.load(None, [f"model={model}", f"data.train={train}", "method=full", *more])


@pytest.mark.parametrize(
    ("task", "model"),
    [("classify", "bert"), ("instruct", "llama"), ("lm", "llama"), ("extract_qa", "bert"), ("tag", "bert"),
     ("seq2seq", "t5"), ("regress", "bert"), ("cloze", "llama")],
)  # fmt: skip
def test_processes_and_cache_change_nothing(
    task: str, model: str, small: None, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = request.getfixturevalue(f"tiny_{model}")
    extra = ["task.template={text} is {label}", "task.verbaliser={good: [good], bad: [bad]}"] * (task == "cloze")
    chosen = config(path, write(tmp_path / "a.jsonl", ROWS.get(task, labelled)(60)), f"task={task}", *extra)
    first = prepare(chosen)
    assert isinstance(first.splits["train"].rows, EncodedRows)
    monkeypatch.setattr(encode_cache, "_parts", None)  # whoever encodes again fails
    again = prepare(chosen)
    monkeypatch.setattr(encode_cache, "ON_DISK", 10_000)
    plain = prepare(chosen)
    for name, split in plain.splits.items():
        assert list(first.splits[name].rows) == list(again.splits[name].rows) == list(split.rows)
        assert list(again.splits[name].examples) == list(split.examples)
    assert first.dataset.ledger.to_json() == again.dataset.ledger.to_json() == plain.dataset.ledger.to_json()


@pytest.mark.parametrize("change", ["data", "template", "mask", "length", "code", "seed"])
def test_whatever_changes_makes_another_entry(
    change: str, small: None, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ROWS["instruct"](60)
    file = write(tmp_path / "a.jsonl", rows)
    prepare(config(tiny_llama, file, "task=instruct"))
    folder = encode_cache._root()
    before = {path.name for path in folder.iterdir() if path.is_dir()}
    more = {"template": "task.template=chatml", "mask": "task.loss_on=all", "length": "data.max_length=40"}
    if change == "data":
        write(tmp_path / "a.jsonl", [*rows, rows[0] | {"question": "something else"}])
    if change == "code":
        monkeypatch.setattr(encode_cache, "_code", lambda: "another")
    settings = [more[change]] if change in more else ["train.seed=7"] * (change == "seed")
    prepare(config(tiny_llama, file, "task=instruct", *settings))
    after = {path.name for path in folder.iterdir() if path.is_dir()}
    assert before < after


def test_a_damaged_entry_is_made_anew(small: None, tmp_path: Path, tiny_bert: Path) -> None:
    chosen = config(tiny_bert, write(tmp_path / "a.jsonl", labelled(60)), "task=classify")
    expected = list(prepare(chosen).splits["train"].rows)
    for entry in encode_cache._root().iterdir():
        if entry.is_dir():
            (entry / "columns.json").write_text("{", encoding="utf-8")
    assert list(prepare(chosen).splits["train"].rows) == expected


def test_the_first_bad_row_is_named_from_another_process(small: None, tmp_path: Path, tiny_bert: Path) -> None:
    test = write(tmp_path / "t.jsonl", [*labelled(40, seed=9), {"text": "odd", "label": "unknown"}])
    chosen = config(tiny_bert, write(tmp_path / "a.jsonl", labelled(60)), "task=classify", f"data.test={test}")
    with pytest.raises(DataError, match="unknown") as caught:
        prepare(chosen)
    assert caught.value.where.endswith("t.jsonl:41")


def test_old_entries_go(small: None, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_cache, "MOST_BYTES", 1)
    for count in (60, 70):
        prepare(config(tiny_bert, write(tmp_path / f"{count}.jsonl", labelled(count)), "task=classify"))
    assert len([path for path in encode_cache._root().iterdir() if path.is_dir()]) == 1


def test_training_from_the_disk_is_training_from_memory(
    small: None, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "a.jsonl", labelled(40))
    losses = []
    for on_disk in (20, 10_000):
        monkeypatch.setattr(encode_cache, "ON_DISK", on_disk)
        run = tunery.train(
            data, model=str(tiny_bert), task="classify", method="full", train={"max_steps": 3, "patience": None},
            run={"dir": str(tmp_path / "runs")},
        )  # fmt: skip
        losses.append(run.metrics["loss"])
    assert losses[0] == losses[1]
