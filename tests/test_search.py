"""Searching on one machine: what is tried, pruned, left out, gone on with, and what comes back."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import fake_trials
from small import Child, digests, labelled, losses, one_thread, write  # noqa: F401
from tunery import config
from tunery.decide import search as searching
from tunery.decide import trial as trials
from tunery.decide.search import Options
from tunery.errors import ConfigError, Interrupted, ModelError
from tunery.models.machine import shares
from tunery.run.run import Run
from tunery.rundir import RunDir, read_json
from verbs import call

pytest.importorskip("optuna")
SPACE = {"train.lr": {"log": [1e-4, 1e-2]}, "method.r": [2, 4, 8, 16]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", labelled(40))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trials.install(monkeypatch.setattr)


def made(model: Path, data: Path, folder: Path, **more: Any) -> config.Config:
    values: dict[str, Any] = {"model": {"name": str(model), "dtype": "float32"}, "task": "classify"}
    values |= {"data": {"train": str(data)}, "run": {"dir": str(folder), "name": "found"}}
    for key, value in more.items():
        section, _, name = key.partition("__")
        values[section] = {**values.get(section, {}), name: value}
    return config.load(values=values)


# ------------------------------------------------------------------------------------------ what it does


@pytest.mark.usefixtures("fakes")
def test_the_best_settings_come_back_as_a_configuration(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    found = searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(trials=12, seed=1))
    assert len(found["trials"]) == 12
    assert found["trials"][0]["source"] == "as configured"
    settings = [json.dumps(trial["settings"]) for trial in found["trials"]]
    assert len(set(settings)) == 12
    finished = [trial for trial in found["trials"] if trial["status"] == "completed"]
    assert found["best"]["value"] == max(trial["value"] for trial in finished)
    best = config.load(found["config"])
    assert best.train.lr == found["best"]["settings"]["train.lr"]
    assert best.dump()["method"]["r"] == found["best"]["settings"]["method.r"]
    assert best.run.name is None and best.eval.baselines, "it trains like any configuration"
    assert read_json(tmp_path / "found" / "search.json")["status"] == "completed"
    report = Path(found["report"]).read_text(encoding="utf-8")
    assert "train.lr" in report and "<svg" in report and "as configured" in report
    for trial in found["trials"]:
        assert RunDir.open(tmp_path / "found" / trial["run"])


@pytest.mark.usefixtures("fakes")
def test_tpe_beats_a_bad_default(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    base = made(tiny_bert, data, tmp_path, train__lr=1e-5)
    space = {"train.lr": {"log": [1e-6, 1e-1]}, "method.r": [2, 4, 8, 16]}
    found = searching.search(base, space, Options(trials=20))
    first = found["trials"][0]
    assert first["source"] == "as configured" and first["settings"]["train.lr"] == 1e-5
    assert found["best"]["value"] > first["value"] + 0.2
    assert found["importance"]["train.lr"] > found["importance"]["method.r"]


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_bad_trials_end_early(tiny_bert: Path, data: Path, tmp_path: Path, pruner: str) -> None:
    space = {"train.lr": {"log": [1e-6, 1e-1]}}
    options = Options(trials=15, sampler="random", pruner=pruner)
    found = searching.search(made(tiny_bert, data, tmp_path), space, options)
    pruned = [trial for trial in found["trials"] if trial["status"] == "pruned"]
    done = [trial for trial in found["trials"] if trial["status"] == "completed"]
    assert pruned and all(trial["evaluations"] < fake_trials.EVALUATIONS for trial in pruned)
    assert max(trial["value"] for trial in done) == found["best"]["value"]
    assert RunDir(tmp_path / "found" / pruned[0]["run"]).manifest()["status"] == "paused"


@pytest.mark.usefixtures("fakes")
def test_a_grid_tries_everything_once_and_ends(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    space = {"train.lr": [1e-4, 1e-3], "method.r": {"range": [2, 4]}}
    found = searching.search(made(tiny_bert, data, tmp_path), space, Options(sampler="grid", pruner="none", workers=2))
    tried = {(trial["settings"]["train.lr"], trial["settings"]["method.r"]) for trial in found["trials"]}
    assert tried == {(lr, r) for lr in (1e-4, 1e-3) for r in (2, 3, 4)}
    assert len(found["trials"]) == 6
    more = searching.resume(tmp_path / "found", Options(trials=50))
    assert len(more["trials"]) == 6, "there is nothing else to try"


@pytest.mark.usefixtures("fakes")
def test_without_ranges_there_are_sensible_ones(
    tiny_bert: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"model={tiny_bert}", "task=classify", "method.r=2", f"data.train={data}", f"run.dir={tmp_path}"]
    result = call(capsys, "search", *arguments, "--trials", "4", "--json")
    assert result.code == 0, result.err
    assert set(result.value["space"]) == {"train.lr", "train.epochs", "train.batch_size"}
    assert "method.r=2 is set, so it is not searched" in result.err
    assert len(result.value["trials"]) == 4


@pytest.mark.usefixtures("fakes")
def test_ranges_from_a_file_and_what_is_printed(
    tiny_bert: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        f"model: {tiny_bert}\ntask: classify\ndata: {{train: {data}}}\nrun: {{dir: {tmp_path}, name: found}}\n"
        "search:\n  train.lr: {log: [1e-4, 1e-2]}\n  method:\n    r: [4, 8]\n",
        encoding="utf-8",
    )
    result = call(capsys, "search", file, "--trials", "5")
    assert result.code == 0, result.err
    assert "best: trial" in result.out and "as configured" in result.out
    assert "train.lr" in result.out and str(tmp_path / "found" / "best.yaml") in result.out
    assert config.load(file).dump()["method"]["r"] == 8, "train reads the same file and passes the ranges over"


@pytest.mark.usefixtures("fakes")
def test_a_trial_that_fails_does_not_end_the_search(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials.start

    def failing(config: Any, **given: Any) -> Any:
        if config.method.r == 4:
            return trials.Outcome("failed", None, "out of memory")
        return whole(config, **given)

    monkeypatch.setattr(trials, "start", failing)
    found = searching.search(made(tiny_bert, data, tmp_path), {"method.r": [2, 4, 8]}, Options(trials=3))
    by_r = {trial["settings"]["method.r"]: trial for trial in found["trials"]}
    assert by_r[4]["status"] == "failed" and by_r[4]["problem"] == "out of memory"
    assert found["best"]["settings"] == {"method.r": 8}


def test_if_all_fail_the_search_says_why_and_stops(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "start", lambda config, **given: trials.Outcome("failed", None, "no good"))
    with pytest.raises(ModelError, match="first 5 trials failed: no good"):
        searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(trials=20))
    assert len(read_json(tmp_path / "found" / "search.json")["results"]) == 5


@pytest.mark.usefixtures("fakes")
def test_a_killed_trial_is_taken_up_again(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process alone is killed: the same number, the same run, from where it was."""
    whole, killed = trials.start, []

    def killing(config: Any, **given: Any) -> Any:
        if not killed:
            run = RunDir.create(Path(config.run.dir), config.run.name)
            run.write_config(config)
            run.update_manifest(status="running")
            run.log_metrics({"step": 1, "validation": {"accuracy": 0.1}})
            killed.append(config.run.name)
            return trials.Outcome("failed", run.path, f"{trials.SILENT}, code -9")
        return whole(config, **given)

    monkeypatch.setattr(trials, "start", killing)
    found = searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(trials=3))
    assert [trial["status"] for trial in found["trials"]] == ["completed"] * 3
    assert [trial["attempts"] for trial in found["trials"]] == [2, 1, 1]
    assert found["trials"][0]["run"] == killed[0] == "trial-000"
    assert not (tmp_path / "found" / "trial-000-2").exists()


def test_a_trial_that_kills_every_worker_is_given_up(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trials.install(monkeypatch.setattr)
    whole = trials.start

    def killing(config: Any, **given: Any) -> Any:
        if config.method.r == 4:
            return trials.Outcome("failed", None, f"{trials.SILENT}, code -9")
        return whole(config, **given)

    monkeypatch.setattr(trials, "start", killing)
    found = searching.search(made(tiny_bert, data, tmp_path), {"method.r": [4, 8]}, Options(trials=2))
    by_r = {trial["settings"]["method.r"]: trial for trial in found["trials"]}
    assert by_r[4]["status"] == "failed" and "3 workers died" in by_r[4]["problem"]
    assert by_r[8]["status"] == "completed"


@pytest.mark.usefixtures("fakes")
def test_the_best_of_another_trial_is_trained_anew(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the best settings are trained with the test rows; with more trials there are better ones."""
    test = write(tmp_path / "test.jsonl", labelled(12, seed=9))
    base = made(tiny_bert, data, tmp_path, data__test=str(test))
    numbers = iter(range(1, 99))
    trained: list[str] = []
    fake_trials.install(monkeypatch.setattr, score=lambda _: next(numbers) / 100)  # the last is the best
    faked = trials.start

    def start(config: Any, **given: Any) -> Any:
        if not config.run.name.startswith("best"):
            return faked(config, **given)
        trained.append(config.run.name)
        run = RunDir.create(Path(config.run.dir), config.run.name)
        run.write_config(config)
        run.update_manifest(status="running", test_metrics={"accuracy": 0.5})
        if len(trained) == 1:
            raise KeyboardInterrupt
        run.update_manifest(status="completed")
        return trials.Outcome("completed", run.path)

    monkeypatch.setattr(trials, "start", start)
    options = Options(trials=2, sampler="random", pruner="none")
    with pytest.raises(KeyboardInterrupt):
        searching.search(base, {"train.lr": {"log": [1e-4, 1e-2]}}, options)
    found = searching.resume(tmp_path / "found", Options(trials=4))
    assert trained == ["best-1", "best-3"]
    assert (found["best"]["trial"], found["test"]["trial"], found["test"]["run"]) == (3, 3, "best-3")
    assert RunDir.open(found["run"]).config().train.lr == found["best"]["settings"]["train.lr"]


# ------------------------------------------------------------------------------------------- beginning warm


@pytest.mark.usefixtures("fakes")
def test_a_warm_start_begins_with_what_was_best(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    base = made(tiny_bert, data, tmp_path)
    earlier = searching.search(base, SPACE, Options(trials=8, seed=2))
    folder = Path(earlier["search"])
    later = searching.search(base, SPACE, Options(trials=6, seed=5, warm_start=(str(folder),)))
    taken = [trial for trial in later["trials"] if trial["source"] == str(folder)]
    done = sorted((t for t in earlier["trials"] if t["status"] == "completed"), key=lambda t: -t["value"])
    assert taken[0]["settings"] == done[0]["settings"] or done[0]["source"] == "as configured"
    assert taken and taken[0]["trial"] <= 1, "right after the configuration's own"
    assert later["best"]["value"] >= earlier["best"]["value"]


def test_a_warm_start_takes_the_nearest_first(tmp_path: Path) -> None:
    from tunery.decide import warm
    from tunery.decide.space import parse

    base = config.load(values={"task": "classify"}).dump()
    here = {"task": "classify", "model": "abc", "method": "lora", "parameters": 1_000_000, "rows": 1000}
    offers = {
        "other-task": {"task": "lm"},
        "larger": {"model": "x", "parameters": 1_000_000_000},
        "same-model": {},
        "similar": {"model": "y", "parameters": 1_100_000},
    }
    for number, (name, about) in enumerate(offers.items()):
        record = {
            "config": base, "about": {**here, **about}, "monitor": "accuracy", "higher_is_better": True,
            "results": [{"status": "completed", "value": 0.5, "settings": {"train.lr": (number + 1) * 1e-3}}],
        }  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "search.json").write_text(json.dumps(record), encoding="utf-8")
    space = parse({"train.lr": {"log": [1e-4, 3.5e-3]}})
    points, notes = warm.points([str(tmp_path)], space, here, base, "accuracy", True)
    assert [Path(source).name for _, source in points] == ["same-model", "similar", "larger"]
    assert [settings["train.lr"] for settings, _ in points] == [3e-3, 3.5e-3, 2e-3], "4e-3 is cut to the range"
    assert notes == ["warm start: 1 of 4 are of another task and left out"]
    with pytest.raises(ModelError, match="neither a run"):
        warm.points([str(tmp_path / "larger" / "nothing")], space, here, base, "accuracy", True)


# ----------------------------------------------------------------------------------- going on, and refusing


@pytest.mark.usefixtures("fakes")
def test_an_interrupted_search_goes_on_with_the_trials_it_would_have_had(
    tiny_bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = made(tiny_bert, data, tmp_path)
    whole = searching.search(base, SPACE, Options(trials=8, seed=4))
    original, count = trials.start, []

    def stopping(config: Any, **given: Any) -> Any:
        if len(count) == 3:
            raise KeyboardInterrupt
        count.append(config)
        return original(config, **given)

    monkeypatch.setattr(trials, "start", stopping)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        searching.search(base, SPACE, Options(trials=8, seed=4))
    monkeypatch.setattr(trials, "start", original)
    found = searching.resume(tmp_path / "found-2")
    assert [trial["settings"] for trial in found["trials"]] == [trial["settings"] for trial in whole["trials"]]
    assert found["best"]["settings"] == whole["best"]["settings"]


@pytest.mark.usefixtures("fakes")
def test_a_completed_search_can_have_more_trials(
    tiny_bert: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(trials=3))
    result = call(capsys, "search", "--resume", tmp_path / "found", "--trials", "5", "--json")
    assert result.code == 0, result.err
    assert len(result.value["trials"]) == 5
    refused = call(capsys, "search", "--resume", tmp_path / "found", "--sampler", "grid", "--json")
    assert "as it was" in refused.error["problem"]


def test_nothing_is_left_of_a_search_that_could_not_begin(
    tiny_bert: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for space, where in (({"train.lrr": [1, 2]}, "train.lrr"), ({"method.r": [4, "x"]}, "method.r")):
        with pytest.raises(ConfigError) as raised:
            searching.search(made(tiny_bert, data, tmp_path), space, Options())
        assert raised.value.where == where
    with pytest.raises(ConfigError, match="counted"):
        searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(sampler="grid"))
    with pytest.raises(ConfigError, match="not the address"):
        searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(storage="mysql://a/b"))
    with pytest.raises(ModelError, match="no such run"):
        searching.search(made(tiny_bert, data, tmp_path), SPACE, Options(warm_start=("nowhere",)))
    assert not (tmp_path / "found").exists()
    result = call(capsys, "search", "--resume", tmp_path, "--json")
    assert result.error["problem"].startswith("not the folder of a search")


def test_workers_share_the_cpus_out() -> None:
    assert shares(1, [0, 1]) == [[0, 1]]
    assert shares(2, [0, 1]) == [[0], [1]]
    assert shares(3, list(range(8))) == [[0, 1], [2, 3, 4], [5, 6, 7]]


# --------------------------------------------------------------------------------------------- real trials


def test_real_trials_test_rows_and_a_search_that_was_killed(tiny_bert: Path, data: Path, tmp_path: Path) -> None:
    """Killed with SIGKILL in its second trial, it goes on exactly there; the test rows are met once, by the best."""
    test = write(tmp_path / "test.jsonl", labelled(12, seed=9))
    settings = [
        f"model={tiny_bert}", "model.dtype=float32", "task=classify", f"data.train={data}", f"data.test={test}",
        f"run.dir={tmp_path}", "run.name=found", "train.max_steps=80", "train.patience=null", "train.dropout=0.1",
        "train.checkpoint_every=5", "eval.every=20", "--space", "train.lr=[1e-3, 1e-2]", "--sampler", "grid",
        "--pruner", "none",
    ]  # fmt: skip
    child = Child("search", *settings, cwd=tmp_path)
    second = RunDir(tmp_path / "found" / "trial-001")
    until = time.monotonic() + 300
    while not list(second.checkpoints.glob("step-*/manifest.json")):
        assert child.running and time.monotonic() < until, child.end()[2] if not child.running else "no checkpoint"
        time.sleep(0.02)
    child.send(signal.SIGKILL)
    child.end()
    assert second.manifest()["status"] != "completed"
    began = second.manifest()["started"]
    found = searching.resume(tmp_path / "found")
    assert [trial["status"] for trial in found["trials"]] == ["completed"] * 2
    assert second.manifest()["started"] == began, "the same run went on"
    assert [trial["attempts"] for trial in found["trials"]] == [1, 2]
    assert "resuming at step" in second.log_file.read_text(encoding="utf-8")
    for name in ("trial-000", "trial-001"):
        run = Run(tmp_path / "found" / name)
        assert run.config.data.test is None and not run.manifest["test_metrics"]
        assert not any(str(test) in file for file in run.manifest["data"])
    assert found["test"]["metrics"]["accuracy"] == Run(found["run"]).manifest["test_metrics"]["accuracy"]
    whole = Run(tmp_path / "found" / "trial-001")
    again = made(tiny_bert, data, tmp_path / "whole", **{
        "train__max_steps": 80, "train__patience": None, "train__dropout": 0.1, "train__lr": 1e-2,
        "train__checkpoint_every": 5, "eval__every": 20,
    })  # fmt: skip
    from tunery.run.train import train

    uninterrupted = Run(train(again).path)
    assert digests(whole.path / "model") == digests(uninterrupted.path / "model"), "exactly as without the kill"
    assert losses(whole) == losses(uninterrupted)
