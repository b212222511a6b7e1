"""Learning curves: nested parts of the rows, extrapolation, going on after an interruption."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from small import labelled, one_thread, scored, write  # noqa: F401
from tunery import config as configuration
from tunery.config import Config
from tunery.data.rows import Rows
from tunery.data.split import nested
from tunery.decide import curve, trial
from tunery.decide.extrapolate import fit
from tunery.errors import ConfigError, DataError, Interrupted, ModelError, TuneryError
from tunery.protocols import Example
from tunery.run.dataset import load_dataset
from tunery.run.train import train
from tunery.rundir import RunDir, read_json
from verbs import call

# --------------------------------------------------------------------------------------- nested parts


def examples(labels: str) -> Rows:
    return Rows.of([Example("a.jsonl", i + 1, text=f"text {i}", label=label) for i, label in enumerate(labels)])


def test_every_beginning_is_a_sample_by_label() -> None:
    rows = examples("a" * 60 + "b" * 30 + "c" * 10)
    order = nested(rows, seed=1)
    assert sorted(order) == list(range(100))
    for count in (10, 20, 50):
        found = [rows.label(i) for i in order[:count]]
        assert abs(found.count("a") - 0.6 * count) <= 2
        assert abs(found.count("c") - 0.1 * count) <= 1
    assert order == nested(rows, seed=1) != nested(rows, seed=2)


def test_the_first_rows_bring_every_label() -> None:
    rows = examples("a" * 500 + "".join(chr(ord("b") + i) for i in range(20)))
    assert len({rows.label(i) for i in nested(rows, seed=0)[:21]}) == 21
    assert sorted(nested(rows, seed=0, stratify=False)) == list(range(520))


@pytest.mark.parametrize("rows", [labelled(60), scored(60)])
def test_fewer_rows_are_among_more_and_the_others_stay(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.jsonl", rows))
    task = "regress" if isinstance(rows[0]["label"], float) else "classify"

    def taken(count: int | None) -> dict[str, set[int]]:
        data = configuration.build({"data": {"train": file, "take": count}}).data
        found = load_dataset(data, task, seed=3)
        summary = found.ledger.summary()
        assert summary["dropped"].get("not_taken", 0) == (0 if count is None else 54 - count)
        assert summary["rows_read"] == 60
        return {name: {row.line for row in split} for name, split in found.splits.items()}

    few, more, everything = taken(10), taken(30), taken(None)
    assert len(few["train"]) == 10
    assert few["train"] < more["train"] < everything["train"]
    assert few["validation"] == more["validation"] == everything["validation"]


def test_more_rows_than_there_are_is_said(tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.jsonl", labelled(20)))
    found = load_dataset(configuration.build({"data": {"train": file, "take": 500}}).data, "classify", 0)
    assert len(found.splits["train"]) == 18
    assert any("only 18" in note for note in found.notes)


# -------------------------------------------------------------------------------------- extrapolation


def drawn(pick: random.Random, sizes: list[int], seeds: int, law: Callable[[float], float], noise: float) -> Any:
    return {n: [law(n) + pick.gauss(0, noise) for _ in range(seeds)] for n in sizes}


def test_a_power_law_is_found_again() -> None:
    sizes = [100, 200, 400, 800, 1600]
    scores = {n: [0.9 - 3 * n**-0.7 + e for e in (-1e-4, 1e-4)] for n in sizes}
    curve = fit(scores, bounds=(0, 1))
    assert curve(6400) == pytest.approx(0.9 - 3 * 6400**-0.7, abs=2e-3)
    low, high = curve.interval(6400)
    assert low < 0.9 - 3 * 6400**-0.7 < high
    assert high - low < 0.01
    losses = {n: [3 * n**-0.5 + 1 + e for e in (-1e-4, 1e-4)] for n in sizes}
    falling = fit(losses, higher_is_better=False, bounds=(0, 99))
    assert falling(6400) == pytest.approx(3 * 6400**-0.5 + 1, abs=0.01)
    assert falling.gain(1600, 3200)[1] < 0


def power_law(top: float, exponent: float, rows: float) -> float:
    return top - 0.3 * (rows / 200) ** -exponent


def test_the_interval_holds_the_next_doublings_as_often_as_it_says() -> None:
    pick = random.Random(0)
    hits = total = 0
    for trial_number in range(60):
        law = partial(power_law, pick.uniform(0.7, 0.95), pick.uniform(0.2, 1.2))
        found = fit(drawn(pick, [200, 400, 800, 1600], 3, law, 0.008), bounds=(0, 1), draws=300, seed=trial_number)
        measured = sum(law(3200) + pick.gauss(0, 0.008) for _ in range(3)) / 3
        low, high = found.interval(3200)
        hits += low <= measured <= high
        total += 1
    assert 0.85 <= hits / total <= 1.0


def test_no_curve_falls_with_more_data_or_passes_the_best_there_is() -> None:
    falling = fit({100: [0.8, 0.81], 200: [0.7, 0.71], 400: [0.6, 0.61]}, bounds=(0, 1))
    assert falling(800) == pytest.approx(falling(100))
    steep = fit({100: [0.5, 0.51], 200: [0.7, 0.71], 400: [0.9, 0.91]}, bounds=(0, 1))
    assert steep(10**6) <= 1
    with pytest.raises(ValueError, match="3 sizes"):
        fit({100: [0.5, 0.6], 200: [0.6, 0.7]})


# ------------------------------------------------------------------------------------------- the verb


def settings(tmp_path: Path, model: object, **data: Any) -> Config:
    files = {"train": str(write(tmp_path / "a.jsonl", labelled(80))), **data}
    return configuration.build(
        {
            "model": str(model), "task": "classify", "method": "full", "data": files,
            "train": {"max_steps": 2, "lr": 3e-3, "batch_size": 4}, "run": {"dir": str(tmp_path), "name": "grow"},
        }
    )  # fmt: skip


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Trials that train nothing: their scores follow a power law. The list gets their rows and seeds."""
    begun: list[tuple[int, int]] = []

    def start(config: Config, **_: Any) -> trial.Outcome:
        begun.append((config.data.take or 0, config.train.seed))
        run = RunDir.create(Path(config.run.dir), config.run.name or "")
        score = 0.9 - 0.9 * (config.data.take or 0) ** -0.5 + 0.004 * (config.train.seed % 3 - 1)
        run.update_manifest(status="completed", metrics={"loss": 0.1, "accuracy": score}, seconds=1.0)
        return trial.Outcome("completed", run.path)

    monkeypatch.setattr(trial, "start", start)
    return begun


def test_a_curve_says_what_more_data_would_bring(pretended: list[tuple[int, int]], tmp_path: Path) -> None:
    found = curve.begin(settings(tmp_path, "minilm"), share=0.9, sizes=3, seeds=2)
    assert found["metric"] == "accuracy"
    assert found["sizes"] == [16, 32, 65]
    assert len(pretended) == 6
    assert [p["rows"] for p in found["predictions"]] == [72, 144, 288]
    assert found["predictions"][1]["score"] == pytest.approx(0.9 - 0.9 * 144**-0.5, abs=0.02)
    assert found["predictions"][1]["gain"] > 0
    assert found["last_doubling"]["difference"] == pytest.approx(0.9 * (32**-0.5 - 65**-0.5), abs=1e-6)
    assert "More data would" in found["verdict"]
    folder = Path(found["curve"])
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(folder / curve.FILE)["status"] == "completed"
    with pytest.raises(ModelError, match="completed"):
        curve.resume(folder)


def test_an_interrupted_curve_goes_on(
    pretended: list[tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = trial.start

    def third(config: Config, **more: Any) -> trial.Outcome:
        if len(pretended) == 2:
            raise KeyboardInterrupt
        return real(config, **more)

    monkeypatch.setattr(trial, "start", third)
    with pytest.raises(KeyboardInterrupt):
        curve.begin(settings(tmp_path, "minilm"), sizes=3, seeds=2)
    assert read_json(tmp_path / "grow" / curve.FILE)["status"] == "interrupted"
    assert curve.is_folder(tmp_path / "grow")
    monkeypatch.setattr(trial, "start", real)
    result = call(capsys, "resume", tmp_path / "grow")
    assert result.code == 0, result.err
    assert len(pretended) == len(set(pretended)) == 6
    assert "by rows trained on" in result.out
    assert "the last doubling" in result.out


def test_a_curve_that_another_process_is_at_is_refused(
    pretended: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial.start
    monkeypatch.setattr(trial, "start", lambda *_, **__: trial.Outcome("interrupted", None))
    with pytest.raises(Interrupted):
        curve.begin(settings(tmp_path, "minilm"), sizes=3, seeds=2)
    monkeypatch.setattr(trial, "start", real)
    with RunDir(tmp_path / "grow").lock(), pytest.raises(ModelError, match="another process"):
        curve.resume(tmp_path / "grow")
    assert not pretended
    assert read_json(tmp_path / "grow" / curve.FILE)["status"] == "interrupted"


def test_a_failed_training_does_not_end_the_curve_unless_it_is_the_first(
    pretended: list[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial.start

    def fails(config: Config, **more: Any) -> trial.Outcome:
        if len(pretended) == 3:
            pretended.append((0, 0))
            return trial.Outcome("failed", None, "out of memory")
        return real(config, **more)

    monkeypatch.setattr(trial, "start", fails)
    found = curve.begin(settings(tmp_path, "minilm"), sizes=4, seeds=2)
    assert [p["status"] for p in found["points"]].count("failed") == 1
    assert found["status"] == "failed"
    again = curve.resume(found["curve"])
    assert again["status"] == "completed"
    monkeypatch.setattr(trial, "start", lambda *_, **__: trial.Outcome("failed", None, "no such model"))
    with pytest.raises(TuneryError, match="first training failed: no such model"):
        curve.begin(settings(tmp_path, "minilm"), sizes=3, seeds=2)


def test_what_gives_no_curve_is_said_before_any_training(pretended: list[tuple[int, int]], tmp_path: Path) -> None:
    config = settings(tmp_path, "minilm")
    with pytest.raises(DataError, match="too few for a curve"):
        curve.begin(config, share=0.2)
    with pytest.raises(ConfigError, match="two seeds"):
        curve.begin(config, seeds=1)
    with pytest.raises(ConfigError, match=r"data\.take"):
        curve.begin(config.model_copy(update={"data": config.data.model_copy(update={"take": 5})}))
    with pytest.raises(ConfigError, match="bleu"):
        curve.begin(config, sizes=3, seeds=2, metric="bleu")
    assert not pretended
    assert not (tmp_path / "grow").exists()


def test_trainings_with_test_rows(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real trainings, in this process: nested rows, scores of the test rows, the doubling compared row by row."""
    monkeypatch.setattr(trial, "start", lambda config, **_: trial.Outcome("completed", train(config).path))
    test = str(write(tmp_path / "t.jsonl", labelled(20, seed=4)))
    found = curve.begin(settings(tmp_path, tiny_bert, test=test), sizes=3, seeds=2)
    assert found["split"] == "test"
    assert found["last_doubling"]["covers"] == "rows and seeds"
    for point in found["points"]:
        manifest = RunDir(Path(point["run"])).manifest()
        assert manifest["rows"]["train"] == point["rows"]
        assert point["metrics"] == manifest["test_metrics"]
