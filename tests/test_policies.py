"""Rows that stand twice, contradict each other or leak: what is kept, what is said, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunery.config import DataConfig
from tunery.data import rows as rows_module
from tunery.data import source as source_module
from tunery.errors import ConfigError, DataError
from tunery.run import many
from tunery.run.dataset import Dataset, load_dataset

LONG = "the delivery came two days late and nobody at the desk could tell me where my parcel number {} had gone"
TRAIN = [
    {"text": "same", "label": "a"},
    {"text": "same", "label": "a"},
    {"text": "odd", "label": "a"},
    {"text": "Odd ", "label": "b"},
    {"text": "leaks", "label": "a"},
    {"text": LONG.format(1), "label": "b"},
    *[{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)],
]
TEST = [{"text": "LEAKS", "label": "a"}, {"text": LONG.format(2), "label": "b"}, {"text": "new", "label": "b"}]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def loaded(folder: Path, **data: Any) -> Dataset:
    files = {"train": write(folder / "a.jsonl", TRAIN), "test": write(folder / "t.jsonl", TEST)}
    return load_dataset(DataConfig(**{**files, **data}), None, 1)


def dropped(found: Dataset) -> dict[int, str]:
    return {e.line: e.bucket for e in found.ledger.entries() if e.bucket.startswith("dropped:")}


def test_by_default_only_leaks_are_dropped(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert dropped(found) == {5: "dropped:leak", 6: "dropped:near_leak"}
    assert found.ledger.rows == len(TRAIN) + len(TEST)
    assert len(found.splits["test"]) == 3
    kinds = Counter(finding.kind for finding in found.findings)
    assert kinds == {"duplicate": 1, "conflict": 1, "leak": 1, "near_leak": 1}
    assert any("data.on_leak=drop" in note and "1 dropped" in note for note in found.notes)


def test_what_is_dropped_is_chosen(tmp_path: Path) -> None:
    found = loaded(tmp_path, on_duplicate="drop", on_conflict="drop", on_leak="warn")
    assert dropped(found) == {2: "dropped:duplicate", 4: "dropped:conflict"}
    assert loaded(tmp_path, near_duplicates=False).ledger.counts()["dropped:leak"] == 1
    assert "dropped:near_leak" not in loaded(tmp_path, near_duplicates=False).ledger.counts()


@pytest.mark.parametrize(
    ("key", "line", "other"), [("on_duplicate", 2, 1), ("on_conflict", 4, 3), ("on_leak", 5, 1)]
)
def test_errors_name_both_rows(key: str, line: int, other: int, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, **{key: "error"})
    assert caught.value.where.endswith(f"a.jsonl:{line}")
    assert f".jsonl:{other}" in caught.value.problem
    assert f"data.{key}=drop" in str(caught.value.hint)


def test_a_file_named_for_two_splits_is_used_for_both(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", TRAIN[6:])
    found = load_dataset(DataConfig(train=file, test=file, on_leak="error"), None, 1)
    assert len(found.splits["test"]) == 20
    assert any("say nothing about new data" in note for note in found.notes)


def test_training_rows_that_all_leak_are_an_error(tmp_path: Path) -> None:
    files = {name: write(tmp_path / f"{name}.jsonl", TRAIN[6:]) for name in ("train", "test")}
    with pytest.raises(DataError, match="no train row is left, all 20 are dropped") as caught:
        load_dataset(DataConfig(**files), None, 1)
    assert "data.on_leak=warn" in str(caught.value.hint)
    assert caught.value.where.endswith("train.jsonl:1")


def test_nearly_equal_rows_are_held_out_together(tmp_path: Path) -> None:
    words = [hashlib.sha256(str(i // 2).encode()).hexdigest() for i in range(40)]  # two rows of each
    rows = [{"text": f"{word} {word[::-1]} {i}", "label": "ab"[i // 2 % 2]} for i, word in enumerate(words)]
    found = load_dataset(DataConfig(train=write(tmp_path / "a.jsonl", rows), holdout=0.3), None, 3)
    sides = {name: {example.text.split()[0] for example in part} for name, part in found.splits.items()}
    assert not sides["train"] & sides["validation"]
    assert len(found.splits["validation"]) == 12


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2], "customer": i // 5} for i in range(60)]
    file = write(tmp_path / "a.jsonl", rows)
    found = load_dataset(DataConfig(train=file, group="customer", holdout=0.2), None, 1)
    sides = {name: {example.group for example in part} for name, part in found.splits.items()}
    assert not sides["train"] & sides["validation"]
    assert len(found.splits["validation"]) == 10
    with pytest.raises(DataError, match="'custmer'") as caught:
        load_dataset(DataConfig(train=file, group="custmer"), None, 1)
    assert "customer" in str(caught.value.hint)


def test_the_latest_rows_are_held_out(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2], "day": f"2026-{1 + i * 7 % 12:02d}-03"} for i in range(60)]
    found = load_dataset(DataConfig(train=write(tmp_path / "a.jsonl", rows), time="day", holdout=0.2), None, 1)
    last = max(str(example.group) for example in found.splits["train"])
    assert all(str(example.group) > last for example in found.splits["validation"])
    bad = write(tmp_path / "b.jsonl", [*rows, {"text": "x", "label": "a", "day": "yesterday"}])
    with pytest.raises(DataError, match="'yesterday' is no time") as caught:
        load_dataset(DataConfig(train=bad, time="day"), None, 1)
    assert caught.value.where.endswith("b.jsonl:61")


@pytest.mark.parametrize("day", ["nan", "NaN", "inf", "-Infinity", "1e999"])
def test_a_time_that_is_no_finite_number_names_its_row(day: str, tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2], "day": day if i == 6 else str(i)} for i in range(20)]
    with pytest.raises(DataError, match="is no time") as caught:
        load_dataset(DataConfig(train=write(tmp_path / "a.jsonl", rows), time="day"), None, 1)
    assert caught.value.where.endswith("a.jsonl:7")


def test_folds_test_every_row_once(tmp_path: Path) -> None:
    rows = [{"text": f"row {i // 2}", "label": "ab"[i // 2 % 2]} for i in range(100)]
    file = write(tmp_path / "a.jsonl", rows)
    tested: list[str] = []
    for fold in range(1, 6):
        found = load_dataset(DataConfig(train=file, folds=5, fold=fold), None, 7)
        parts = {name: {example.text for example in part} for name, part in found.splits.items()}
        assert not parts["train"] & parts["test"]
        assert not parts["validation"] & parts["test"]
        assert Counter(example.label for example in found.splits["test"]) == {"a": 10, "b": 10}
        tested += [example.where for example in found.splits["test"]]
        assert found.ledger.rows == 100
    assert sorted(tested) == sorted(f"{file}:{i}" for i in range(1, 101))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"group": "a", "time": "b"}, "group or by time"),
        ({"fold": 2}, "a fold of how many"),
        ({"folds": 3, "fold": 4}, "there are 3 folds"),
        ({"folds": 3, "test": "t.jsonl"}, "takes the rows to test on from train"),
        ({"folds": 3, "time": "b"}, "not by time"),
    ],
)
def test_keys_that_contradict_each_other(keys: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_dataset(DataConfig(train=write(tmp_path / "a.jsonl", TRAIN), **keys), None, 1)


def test_too_few_rows_for_the_folds(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"text": f"row {i % 3}", "label": "ab"[i % 3 % 2]} for i in range(9)])
    with pytest.raises(DataError, match="3 distinct inputs are too few for 5 folds"):
        load_dataset(DataConfig(train=file, folds=5, fold=1), None, 1)


def test_many_rows_are_read_back_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "IN_MEMORY", 7)
    found = loaded(tmp_path)
    monkeypatch.undo()
    again = loaded(tmp_path)
    assert {k: list(v) for k, v in found.splits.items()} == {k: list(v) for k, v in again.splits.items()}


def test_a_sample_is_drawn_evenly_and_is_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ALL", 50)
    monkeypatch.setattr(rows_module, "IN_MEMORY", 20)
    file = write(tmp_path / "a.jsonl", [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(400)])
    data = DataConfig(train=file, near_duplicates=False)
    found = [load_dataset(data, None, 1, sample=100).splits["train"] for _ in range(2)]
    lines = [[example.line for example in rows.kept()] for rows in found]
    assert lines[0] == lines[1]
    assert len(found[0]) == 360
    assert 60 < len(lines[0]) <= 100
    assert 20 < sum(line <= 200 for line in lines[0]) < 80


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are forked on Linux only")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_several_processes_find_what_one_finds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [{"text": f"row {i % 290} {'x' * (i % 7)}", "label": f"l{i % 290 % 3}"} for i in range(300)]
    made[17], made[250] = {"text": "", "label": "a"}, {"text": "odd", "label": 1}
    file = Path(write(tmp_path / "a.jsonl", made))
    if name == "a.json":
        file.write_text(json.dumps(made), encoding="utf-8")
    elif name == "a.csv":
        file.write_text("\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in made)]), encoding="utf-8")
    file = str(file.rename(tmp_path / name))
    data = DataConfig(train=file, on_bad_row="drop", near_duplicates=False)
    alone = load_dataset(data, None, 1, sample=500)
    monkeypatch.setattr(many, "WORTH_BYTES", 1)
    monkeypatch.setattr(many, "cpus", lambda: 3)
    monkeypatch.setattr(source_module, "TURN", 7)
    for sample in (900, 60):
        found = load_dataset(data, None, 1, sample=sample)
        assert found.ledger.to_json() == alone.ledger.to_json()
        assert found.findings == alone.findings
        assert found.notes[:2] == alone.notes[:2]
        for name, rows in alone.splits.items():
            assert [rows.where(i) for i in range(len(rows))] == [
                found.splits[name].where(i) for i in range(len(found.splits[name]))
            ]
            kept = found.splits[name].kept()
            assert set(kept) <= set(rows)
            if sample == 900:
                assert list(kept) == list(rows)
    assert 30 < sum(len(rows.kept()) for rows in found.splits.values()) <= 60


def test_a_broken_file_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(many, "WORTH_BYTES", 1)
    monkeypatch.setattr(many, "cpus", lambda: 2)
    file = tmp_path / "a.json"
    file.write_text("[" + '{"text": "a", "label": "b"},\n' * 200 + "oops]", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        load_dataset(DataConfig(train=str(file)), None, 1, sample=10)
    assert "Traceback" not in capfd.readouterr().err
