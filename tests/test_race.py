"""A race from survey to sentence, on tiny models. Its trainings run in this process, one at a time, to be quick."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

import trials
from small import documents, labelled, one_thread, questions, write  # noqa: F401
from tunery import config
from tunery.cli import race as verb
from tunery.decide import controls, race, trial
from tunery.decide.trial import Outcome
from tunery.errors import ConfigError, ModelError
from tunery.rundir import RunDir
from verbs import call

HOUR = 3600.0


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return trials.in_process(monkeypatch)


def settings(folder: Path, model: Path, rows: int = 240, **changes: Any) -> config.Config:
    data = write(folder / "train.jsonl", labelled(rows))
    test = write(folder / "test.jsonl", labelled(30, seed=7))
    keys = [f"data.train={data}", f"data.test={test}", f"model={model}", "task=classify", "train.max_steps=18"]
    keys += [f"run.dir={folder / 'runs'}", "run.name=race", "model.dtype=float32"]
    return config.load(None, [*keys, *(f"{k.replace('__', '.')}={v}" for k, v in changes.items())])


def test_the_better_go_on_and_the_finalists_meet_the_test_rows(
    tiny_bert: Path, tmp_path: Path, in_process: list[str]
) -> None:
    folder = race.race(settings(tmp_path, tiny_bert), HOUR, ["full", "lora", "freeze"], workers=1)
    found = race.load(folder)
    assert found["status"] == "completed"
    assert [rung["until"] for rung in found["rungs"]] == [2, 6, 18]
    table = {row["name"]: row for row in found["table"]}
    methods = {name: row for name, row in table.items() if row["kind"] == "method"}
    assert set(methods) == {"full", "lora", "freeze", "full-lr-x3", "lora-lr-x3"}  # there was time for second rates
    rates = {name: RunDir.open(folder / row["runs"][0]).config().train.lr for name, row in methods.items()}
    assert rates["full-lr-x3"] == 3 * (rates["full"] or 0)
    finalists = found["rungs"][-1]["on"]
    assert len(finalists) == 2
    for name, row in methods.items():
        run, last = RunDir.open(folder / row["runs"][0]), name in finalists
        assert run.manifest()["status"] == ("completed" if last else "paused")
        assert row["state"] == ("finished" if last else "left behind")
        assert row["share"] == pytest.approx(1 if last else 1 / 9, abs=0.01)
        assert (run.evaluation("test") / "results.json").is_file() == last
        assert (row["test"] is not None) == last
        assert not run.config().eval.test
    assert {"majority", "tfidf", "naive_bayes"} <= set(table)
    assert table["tfidf"]["test"] is not None
    assert found["controls"]["shuffled"]["verdict"] == "learns nothing"
    assert "not applicable" in found["controls"]["not_applicable"]["zero-shot"]
    assert found["decided_on"]["split"] == "test"
    assert {d["first"] for d in found["differences"]} == {found["best"]}
    assert found["recommendation"]
    assert sorted(name for name in in_process if "test" in name) == sorted(f"test {name}-seed42" for name in finalists)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert found["recommendation"].split(":")[0] in report
    if found["winner"] in methods:
        again = config.load(folder / "recommended.yaml")
        assert again.method_name == found["winner"]


def test_what_fails_is_listed_and_the_others_go_on(tiny_llama: Path, tmp_path: Path) -> None:
    folder = race.race(settings(tmp_path, tiny_llama, model__quantise="nf4"), HOUR, ["lora", "full"], workers=1)
    found = race.load(folder)
    table = {row["name"]: row for row in found["table"]}
    assert table["full"]["state"] == "failed"
    assert "quantised" in table["full"]["reason"]
    assert table["lora"]["state"] == "finished"
    assert found["status"] == "completed"


def test_an_interrupted_race_goes_on_where_it_was(
    tiny_bert: Path, tmp_path: Path, in_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial.go_on

    def interrupt(*_: Any, **__: Any) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "go_on", interrupt)
    chosen = settings(tmp_path, tiny_bert)
    with pytest.raises(KeyboardInterrupt):
        race.race(chosen, HOUR, ["full", "lora", "freeze"], workers=1)
    folder = tmp_path / "runs" / "race"
    before = race.load(folder)
    assert before["status"] == "interrupted"
    assert len(before["rungs"]) == 1
    monkeypatch.setattr(trial, "go_on", real)
    begun = len(in_process)
    assert race.resume(folder, workers=1) == folder
    after = race.load(folder)
    assert after["status"] == "completed"
    assert after["rungs"][0] == before["rungs"][0]
    assert after["plan"] == before["plan"]
    assert after["seconds"] > before["seconds"]
    # only those that had gone on, and the test rows
    assert {name for name in in_process[begun:] if not name.startswith("test")} == {
        f"{name}-seed42" for name in before["rungs"][0]["on"]
    }
    with pytest.raises(ModelError, match="finished"):
        race.resume(folder)
    with pytest.raises(ModelError, match="not a race"):
        race.resume(tmp_path)


def test_a_race_that_another_process_is_at_is_refused(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "start", lambda *_, **__: Outcome("failed", None, "no good"))
    with pytest.raises(ModelError, match="no good"):
        race.race(settings(tmp_path, tiny_bert), HOUR, ["full", "lora"], workers=1)
    folder = tmp_path / "runs" / "race"
    before = race.load(folder)
    assert before["status"] == "failed"
    with RunDir(folder).lock(), pytest.raises(ModelError, match="another process"):
        race.resume(folder)
    assert race.load(folder) == before


def test_few_rows_get_several_seeds_and_splits_and_a_cloze(tiny_llama: Path, tmp_path: Path) -> None:
    chosen = settings(tmp_path, tiny_llama, rows=32, train__max_steps=9)
    folder = race.race(chosen, HOUR, ["cloze", "freeze"], workers=1)
    found = race.load(folder)
    assert found["few_rows"]
    assert found["rows"]["validation"] == 8
    table = {row["name"]: row for row in found["table"]}
    assert {"zero-shot", "few-shot", "cloze"} <= set(table)
    winners = found["rungs"][-1]["on"]
    assert all(table[name]["seeds"] == 4 for name in winners)
    splits = []
    for run in table[winners[0]]["runs"]:
        lines = (folder / run / "eval" / "validation" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        splits.append({json.loads(line)["where"] for line in lines})
    assert len({frozenset(split) for split in splits}) > 1
    assert RunDir.open(folder / "cloze-seed42").config().task_name == "cloze"
    assert RunDir.open(folder / "freeze-seed42").config().task_name == "classify"
    shown = RunDir.open(folder / "few-shot-seed42").config().task.template  # type: ignore[union-attr]
    held = {json.loads(line)["input"] for line in (folder / "few-shot-seed42/eval/validation/predictions.jsonl").open()}
    assert not any(text in shown for text in held)


def test_a_planted_leak_is_found(tiny_bert: Path, tmp_path: Path) -> None:
    pick = random.Random(3)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(pick.choices(words, k=12)) for _ in range(300)]
    rows = [{"text": text, "label": ("good", "bad")[i % 2]} for i, text in enumerate(texts)]
    train = write(tmp_path / "leaky.jsonl", rows)
    held = write(tmp_path / "held.jsonl", rows[:60])
    chosen = settings(
        tmp_path, tiny_bert, data__train=train, data__validation=held, data__on_leak="warn", data__test="null"
    )
    found = race.load(race.race(chosen, HOUR, ["freeze"], workers=1))
    assert found["leaks"]["rows"] == 60
    assert found["controls"]["by_heart"]["learnt"]
    assert "something leaks" in found["controls"]["shuffled"]["verdict"]
    assert any(line.startswith("Leak: 60 rows") for line in found["warnings"])
    assert any("shuffled labels" in line for line in found["warnings"])
    assert found["recommendation"].startswith("Mend the leak first, then race again: 60 rows stand in two splits")
    assert found["decided_on"]["split"] == "validation"


def test_answers_and_plain_texts_race_too(tiny_llama: Path, tmp_path: Path) -> None:
    asked = write(tmp_path / "asked.jsonl", questions(40))
    keys = {"task": "instruct", "eval__max_new_tokens": 4, "eval__generate_rows": 2, "data__test": "null"}
    found = race.load(race.race(settings(tmp_path, tiny_llama, data__train=asked, **keys), HOUR, ["lora"], workers=1))
    table = {row["name"]: row for row in found["table"]}
    assert {"zero-shot", "few-shot", "constant", "lora"} <= set(table)
    assert found["metric"]["name"] == "loss"
    assert "not applicable" in found["controls"]["shuffled"]["verdict"]
    plain = write(tmp_path / "plain.jsonl", documents(30))
    keys = {"task": "lm", "data__test": "null", "run__name": "plain"}
    found = race.load(race.race(settings(tmp_path, tiny_llama, data__train=plain, **keys), HOUR, ["lora"], workers=1))
    assert found["winner"] == "lora"


def test_wrong_arguments(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora"):
        race.race(settings(tmp_path, tiny_bert), HOUR, ["lorra"])
    with pytest.raises(ConfigError, match="splits"):
        race.race(settings(tmp_path, tiny_bert, data__folds=3, data__test="null"), HOUR)
    assert not (tmp_path / "runs").exists()
    for wrong in ("ten", "5x", "0m", ""):
        with pytest.raises(ConfigError):
            verb.seconds(wrong)
    assert verb.seconds("90") == verb.seconds("1.5m") == 90
    controls.learnt(0, 0, [])  # nothing scored is nothing learnt


def test_the_verb_prints_the_table_and_the_sentence(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(tmp_path, tiny_bert)
    data = [f"data.train={chosen.data.train}", f"model={tiny_bert}", "task=classify", f"run.dir={tmp_path / 'r'}"]
    arguments = ["race", "--budget", "1h", "--methods", "freeze", "--workers", "1", *data, "train.max_steps=9"]
    answer = call(capsys, *arguments)
    assert answer.code == 0
    assert "shuffled labels: learns nothing" in answer.out
    assert "report.html" in answer.out
    assert call(capsys, "race", "--resume", tmp_path).code == 6


def test_rows_are_named_alike_wherever_a_run_is(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = settings(tmp_path, tiny_bert, data__train="train.jsonl", data__test="test.jsonl", train__max_steps=9)
    found = race.load(race.race(chosen, HOUR, ["freeze"], workers=1))
    compared = {d["first"] for d in found["differences"]} | {d["second"] for d in found["differences"]}
    assert {"freeze", "majority", "tfidf", "naive_bayes"} <= compared
    assert all(d["rows"] == 30 for d in found["differences"])
