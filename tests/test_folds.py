"""Cross-validation from the command line and from Python: means, intervals, going on after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tunery
from small import labelled
from tunery.errors import ConfigError, DataError, ModelError
from tunery.run import folds
from tunery.rundir import read_json, write_json
from verbs import call


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled(24)), encoding="utf-8")
    return str(file)


def settings(model: Path, folder: Path) -> dict[str, Any]:
    return {
        "model": str(model), "task": "classify", "method": "full",
        "train": {"max_steps": 2, "patience": None}, "run": {"dir": str(folder), "name": "cv"},
    }  # fmt: skip


def test_every_row_is_tested_by_a_run_that_has_not_seen_it(data: str, tiny_bert: Path, tmp_path: Path) -> None:
    found = tunery.cross_validate(data, folds=3, **settings(tiny_bert, tmp_path))
    summary = found.summary()
    assert summary["status"] == "completed"
    assert len(summary["folds"]) == 3
    values = [fold["metrics"]["accuracy"] for fold in summary["folds"]]
    assert summary["metrics"]["accuracy"] == pytest.approx(sum(values) / 3)
    low, high = summary["intervals"]["accuracy"]
    assert low <= summary["metrics"]["accuracy"] <= high
    tested = []
    for run in found.folds:
        ledger = read_json(run.ledger_file)
        tested += [line for part in ledger["files"] for line in numbers(part["buckets"]["used:test"])]
        assert "base_test_metrics" in run.manifest()
    assert sorted(tested) == list(range(1, 25))


def numbers(ranges: str) -> list[int]:
    ends = [part.split("-") for part in ranges.split(", ")]
    return [n for end in ends for n in range(int(end[0]), int(end[-1]) + 1)]


def test_an_interrupted_one_goes_on(
    data: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(data, tiny_bert, tmp_path)
    assert folds.is_folder(tmp_path / "cv")
    first = (tmp_path / "cv" / "fold-1" / "manifest.json").read_bytes()
    result = call(capsys, "resume", tmp_path / "cv", "--json")
    assert result.code == 0, result.err
    assert result.value["status"] == "completed"
    assert (tmp_path / "cv" / "fold-1" / "manifest.json").read_bytes() == first
    with pytest.raises(ModelError, match="completed"):
        folds.resume(tmp_path / "cv")


def begun(data: str, model: Path, folder: Path) -> Path:
    """A cross-validation of three folds that was interrupted after the first."""
    real, trained = folds.train, []

    def interrupted(config: Any) -> Any:
        if trained:
            raise KeyboardInterrupt
        trained.append(config.data.fold)
        return real(config)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(folds, "train", interrupted)
        tunery.cross_validate(data, folds=3, **settings(model, folder))
    return folder / "cv"


def test_relative_paths_go_on_from_another_folder(
    data: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert, "model")
    begun("a.jsonl", Path("model"), Path("runs"))
    monkeypatch.chdir("/")
    found = folds.resume(tmp_path / "runs" / "cv")
    assert found.summary()["status"] == "completed"
    assert [run.path.parent for run in found.folds] == [tmp_path / "runs" / "cv"] * 3


def test_a_file_that_changed_between_folds_is_refused(data: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = begun(data, tiny_bert, tmp_path)
    with Path(data).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "one more", "label": "good"}) + "\n")
    with pytest.raises(DataError, match="the data changed since the first fold") as caught:
        folds.resume(folder)
    assert caught.value.where == data
    assert len(folds.CrossValidation(folder).folds) == 1


def test_the_command_line_shows_means_with_intervals(
    data: str, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"data.train={data}", "data.folds=2", f"model={tiny_bert}", "task=classify", "train.max_steps=1"]
    result = call(capsys, "train", *arguments, f"run.dir={tmp_path}")
    assert result.code == 0, result.err
    assert "means of 2 folds" in result.out
    assert "95 % intervals" in result.out


def test_one_run_or_several(data: str, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cross_validate"):
        tunery.train(data={"train": data, "folds": 3}, model=str(tiny_bert), task="classify")


def test_nothing_is_left_of_one_that_could_not_begin(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(tunery.TuneryError):
        tunery.cross_validate(str(tmp_path / "missing.jsonl"), folds=3, **settings(tiny_bert, tmp_path))
    assert not (tmp_path / "cv").exists()


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    write_json(tmp_path / "cv" / folds.FILE, {"status": "running"})
    (tmp_path / "cv" / folds.FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        folds.resume(tmp_path / "cv")
