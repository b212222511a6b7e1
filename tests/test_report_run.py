"""Reports of runs: what they say is what lies in the run directory, whatever is missing there."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

import verbs
from small import labelled, one_thread, questions, train, write  # noqa: F401
from test_report_page import EMOJI, HOSTILE, RIGHT_TO_LEFT, safe
from tunery import config, stats
from tunery.cli import report as cli
from tunery.errors import DataError, ModelError, ResourceError
from tunery.report import answers, card, folder, intervals, verdict
from tunery.report import run as report
from tunery.report.page import Page
from tunery.report.records import Records, read
from tunery.rundir import RunDir, write_json, write_jsonl, write_text

LABELS = ["bad", "good"]


def classified(path: Path, right: int = 40, rows: int = 50, base: int = 25, **manifest: Any) -> RunDir:
    """A finished run of a classifier, written by hand: ``right`` of ``rows`` test rows are right."""
    run = RunDir(path)
    run.path.mkdir(parents=True)
    run.write_config(config.load(None, ["model=minilm", "task=classify", "method=lora"]))
    for step in range(1, 31):
        run.log_metrics({"step": step, "epoch": step / 10, "loss": 1 / step, "lr": step / 1000})
        if step % 10 == 0:
            run.log_metrics({"step": step, "epoch": step / 10, "validation": {"accuracy": step / 50, "loss": 2 / step}})
    write_json(run.ledger_file, {"rows_read": 460, "splits": {"train": 400, "test": 50}, "dropped": {"duplicate": 10}})
    evaluation(run, "test", right, rows, {"majority": {"accuracy": 0.5}, "tfidf": {"accuracy": 0.6}})
    evaluation(run, "test-base", base, rows)
    (path / "model").mkdir()
    write_json(path / "model" / "adapter_config.json", {"peft_type": "LORA"})
    kept = {"status": "completed", "steps": 30, "best_step": 20, "seconds": 75.0, "peak_memory_bytes": 10**9}
    kept |= {"rows": {"train": 400, "test": rows}, "seed": 42, "data": {"/home/me/rows.csv": "ab" * 32}}
    kept |= {"base": {"name": "minilm", "hub": "org/minilm", "licence": "Apache-2.0 (weights)"}}
    run.update_manifest(**{**kept, **manifest})
    return run


def evaluation(run: RunDir, name: str, right: int, rows: int, baselines: dict[str, Any] | None = None) -> None:
    truth = [LABELS[i % 2] for i in range(rows)]
    given = [label if i < right else LABELS[1 - i % 2] for i, label in enumerate(truth)]
    counts = [[sum((t, g) == (a, b) for t, g in zip(truth, given, strict=True)) for b in LABELS] for a in LABELS]
    texts = [HOSTILE, RIGHT_TO_LEFT, EMOJI, "很长 " * 2000]
    records = [
        {
            "where": f"/home/me/rows.csv:{i + 2}",
            "input": texts[i % 4],
            "prediction": g,
            "probabilities": {g: 0.8, LABELS[1 - LABELS.index(g)]: 0.2},
            "reference": t,
        }
        for i, (t, g) in enumerate(zip(truth, given, strict=True))
    ]
    results = {"rows": rows, "metrics": {"accuracy": right / rows, "loss": 0.5}, "baselines": baselines or {}}
    write_json(run.evaluation(name) / "results.json", {**results, "confusion": {"labels": LABELS, "counts": counts}})
    write_jsonl(run.evaluation(name) / "predictions.jsonl", records)


def lead(**changes: Any) -> str:
    """What ``verdict`` says of such a run."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        return verdict.sentence(read(classified(Path(place) / "run", **changes)))


def generated(path: Path, answers: list[str], base: list[str]) -> RunDir:
    """A finished run of a model that answers, written by hand; the right answer to every question is "42"."""
    run = RunDir(path)
    run.path.mkdir(parents=True)
    run.write_config(config.load(None, ["model=smollm2", "task=instruct", "method=lora"]))
    for name, texts in (("validation", answers), ("validation-base", base)):
        share = sum("42" in text for text in texts) / len(texts)
        metrics = {"loss": 1.5 if name == "validation" else 3.0, "perplexity": 4.0, "contains": share}
        results = {"rows": 20, "generated_rows": len(texts), "metrics": metrics, "baselines": {}}
        write_json(run.evaluation(name) / "results.json", results)
        records = [
            {"where": f"a.jsonl:{i}", "input": "?", "prediction": text, "reference": ["42"], "contains": ["42"]}
            for i, text in enumerate(texts)
        ]
        write_jsonl(run.evaluation(name) / "predictions.jsonl", records)
    run.update_manifest(status="completed", steps=5, seconds=3.0, rows={"train": 90})
    return run


# --------------------------------------------------------------------------------------------- the page


def test_the_page_tells_what_is_in_the_run(tmp_path: Path) -> None:
    run = classified(
        tmp_path / "run",
        verdicts=["a baseline is better"],
        forgetting={"text": "stories", "before": 3.0, "after": 3.3, "relative": 0.1},
        overfitting={"gap": 0.4, "since_step": 12},
        predicted={"seconds": 60, "peak_memory_bytes": 8e8},
        prediction_error={"seconds": -0.2, "peak_memory_bytes": -0.2},
        adapter_bytes=1_000_000,
    )
    points = [{"scale": s / 4, "quality": 1 - s / 10, "forgetting": s / 50, "loss": 3.0} for s in range(5)]
    write_json(run.path / "forgetting.json", {"bound": 0.05, "quality": "loss", "scale": 0.5, "curve": points})
    file, sentence = report.write(run)
    tree = safe(file.read_text(encoding="utf-8"))
    for text in (
        sentence, "a baseline is better", "0.8000", "0.6696 – 0.8876", "tfidf", "used for train", "dropped: duplicate",
        "3.000 before, 3.300 after, +10.0%", "scale 0.5 was chosen for at most 5.00%", "grew to 0.400 from step 12 on",
        "1 min", "1 min 15 s", "-20%", "1.0 MB", "10 of 50 test rows are wrong", "characters left out", HOSTILE,
        "model:\n  name: minilm", "/home/me/rows.csv", "Expected calibration error 0.000",
    ):  # fmt: skip
        assert text in tree.text, text
    assert sum(tag == "svg" for tag, _ in tree.tags) == 5  # loss, numbers, learning rate, forgetting, calibration
    written = (run.path / "report.md").read_text(encoding="utf-8")
    assert sentence in written and "0.6696 – 0.8876" in written


def test_a_run_with_little_in_it_has_a_page(tmp_path: Path) -> None:
    for status in ("failed", "interrupted", "paused", "running", "completed"):
        run = RunDir(tmp_path / status)
        run.path.mkdir()
        run.update_manifest(status=status, problem="out of memory" if status == "failed" else None)
        write_text(run.metrics_file, '{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
        file, sentence = report.write(run)
        safe(file.read_text(encoding="utf-8"))
        assert status in sentence or status == "completed", sentence
        assert "out of memory" in sentence or status != "failed"


def test_damage_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    run = classified(tmp_path / "run")
    file = run.evaluation("test") / "predictions.jsonl"
    file.write_text(file.read_text(encoding="utf-8") + "{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"predictions\.jsonl:51.*damaged"):
        report.write(run)
    write_text(run.config_file, "a: [")
    with pytest.raises(ModelError, match=r"config\.yaml.*damaged"):
        report.write(run)


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    classified(tmp_path / "run")
    code = (
        "import sys, pathlib; from tunery.rundir import RunDir; from tunery.report import run, folder;"
        f"run.write(RunDir(pathlib.Path({str(tmp_path / 'run')!r}))); folder.write(pathlib.Path({str(tmp_path)!r}));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


# ------------------------------------------------------------------------------------------ the verdict


def test_the_sentence_says_whether_it_worked() -> None:
    assert lead().startswith("It worked: lora on minilm learnt classify from 400 rows in 30 steps (1 min 15 s) and")
    assert "accuracy 0.800 (95 % interval 0.670 to 0.888) on 50 test rows" in lead()
    assert lead().endswith("the untouched model has 0.500 and the best guess without a model, tfidf, 0.600.")
    assert lead(base=40).startswith("No effect can be shown")
    assert lead(right=20, base=45).startswith("It did harm")
    assert lead(right=33, base=5).startswith("It is not clearly better than tfidf, which needs no model")
    assert lead(right=12, base=2).startswith("It is worse than tfidf, which needs no model")
    assert "was not trained (no steps)" in lead(steps=0)


def test_answers_are_judged_by_what_they_say(tmp_path: Path) -> None:
    run = generated(tmp_path / "run", ["it is 42"] * 11 + ["no"], ["no"] * 12)
    records = read(run)
    sentence = verdict.sentence(records)
    assert sentence.startswith("It worked") and "contains 0.917 (95 % interval" in sentence
    assert "on 12 validation rows" in sentence and "went from 3.000 to 1.500" in sentence
    text = report.write(run)[0].read_text(encoding="utf-8")
    assert "must contain: 42" in text and "of which 12 were answered (loss, perplexity: all of them)" in text
    chance = generated(tmp_path / "chance", ["42"] * 3 + ["no"] * 9, ["42"] * 2 + ["no"] * 10)
    assert verdict.sentence(read(chance)).startswith("No effect can be shown")


def test_intervals_are_those_of_the_rows(tmp_path: Path) -> None:
    records = read(classified(tmp_path / "run"))
    found = intervals.of(records.evaluations["test"])
    assert found["accuracy"] == stats.wilson(40, 50)
    generating = read(generated(tmp_path / "answers", ["42"] * 9 + ["no"] * 3, ["no"] * 12)).evaluations["validation"]
    assert intervals.of(generating) == {"contains": stats.wilson(9, 12)}


def test_no_interval_where_the_rows_are_not_those_of_the_number(tmp_path: Path) -> None:
    """Predictions of another evaluation, or cut off, must not give the number an interval."""
    run = generated(tmp_path / "run", ["42"] * 9 + ["no"] * 3, ["no"] * 12)
    file = run.evaluation("validation") / "predictions.jsonl"
    file.write_text("\n".join(file.read_text(encoding="utf-8").splitlines()[:6]) + "\n", encoding="utf-8")
    assert intervals.of(read(run).evaluations["validation"]) == {}


def test_intervals_of_means_over_classes_are_those_of_the_metric(tmp_path: Path) -> None:
    from tunery import scoring
    from tunery.protocols import Scored

    run = classified(tmp_path / "run")
    found = read(run).evaluations["test"]
    given, truth = ([row[key] for row in found.predictions] for key in ("prediction", "reference"))
    scored = Scored(given, truth, labels=tuple(LABELS))
    names = ["f1_macro", "f1_weighted", "precision_macro", "recall_macro"]
    found.metrics |= scoring.score(scored, names, ("classes",))
    ends = intervals.of(found)
    assert ends.keys() == {"accuracy", *names}
    assert all(low < found.metrics[name] < high and 0.1 < high - low < 0.4 for name, (low, high) in ends.items())


def test_calibration_by_hand(tmp_path: Path) -> None:
    found = read(classified(tmp_path / "run", right=30)).evaluations["test"]
    pairs = answers.certainties(found)
    assert answers.reliability(pairs) == [(pytest.approx(0.8), 0.6, 50)]
    assert answers.expected_error(pairs) == pytest.approx(0.2)
    several = [{"prediction": ["a"], "reference": ["a", "b"], "probabilities": {"a": 0.9, "b": 0.3, "c": 0.1}}]
    found.predictions = several
    assert answers.certainties(found) == [(0.9, True), (0.3, True), (0.1, False)]


def test_many_labels_are_a_picture_and_a_list(tmp_path: Path) -> None:
    run = classified(tmp_path / "run")
    labels = [f"label {i}" for i in range(40)]
    counts = [[8 if i == j else 2 if j == (i + 1) % 40 else 0 for j in range(40)] for i in range(40)]
    file = run.evaluation("test") / "results.json"
    value = json.loads(file.read_text(encoding="utf-8")) | {"confusion": {"labels": labels, "counts": counts}}
    write_json(file, value)
    text = report.write(run)[0].read_text(encoding="utf-8")
    safe(text)
    assert "Mixed up most often" in text and "data:image/png;base64," in text and 'class="matrix"' not in text


# ----------------------------------------------------------------------------------------- model card


def test_the_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    run = classified(tmp_path / "run", verdicts=["---\n# a heading"])
    report.write(run)
    found = ModelCard.load(run.model / card.FILE)
    assert found.data.base_model == "org/minilm" and found.data.library_name == "peft"
    assert found.data.license == "apache-2.0" and found.data.pipeline_tag == "text-classification"
    assert [(e.metric_type, e.metric_value) for e in found.data.eval_results] == [("accuracy", 0.8), ("loss", 0.5)]
    text = found.text
    assert "It worked" in text and "rows.csv" in text and "/home/me" not in text
    assert "\n---" not in text and "\n# a heading" not in text


@pytest.mark.parametrize("name", ['a"b: [c', "中文: 运行", "x\ny", "- a", "@b #c"])
def test_names_do_not_break_the_metadata(tmp_path: Path, name: str) -> None:
    records = Records(tmp_path / name.replace("\n", " "), {"status": "completed", "base": {"name": name}}, {}, "")
    records.config = {"task": {"name": name}, "method": {"name": "lora"}, "model": {"name": name}}
    text = card.render(records)
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["tags"] == ["tunery", name, "lora"] and "base_model" not in metadata


# ----------------------------------------------------------------------------------- the verb, training


def test_the_verb_writes_reports_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, right in (("a", 40), ("b", 45)):
        run = classified(tmp_path / "runs" / name, right=right, report_problem="no space", adapter_bytes=10**6)
    found = verbs.call(capsys, "report", run.path, tmp_path / "runs", "--json")
    assert found.code == 0 and [one["report"] for one in found.value] == [
        str(tmp_path / "runs" / "b" / "report.html"),
        str(tmp_path / "runs" / "report.html"),
    ]
    assert run.manifest()["report_problem"] is None
    tree = safe((tmp_path / "runs" / "report.html").read_text(encoding="utf-8"))
    assert "b has the best accuracy, 0.900" in tree.text and "tunery compare" in tree.text
    assert [a["href"] for tag, a in tree.tags if tag == "a" and a["href"] == "b/report.html"]
    printed = verbs.call(capsys, "report", run.path)
    assert printed.code == 0 and printed.out.startswith("It worked") and "report.html" in printed.out


def test_a_race_is_shown_by_its_own_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is completed; before that, what its runs have reached."""
    shown = types.ModuleType("shown")
    monkeypatch.setattr(shown, "page", lambda path, record: Page("Race", record["recommendation"]), raising=False)
    shown.__spec__ = importlib.util.spec_from_loader("shown", None)
    monkeypatch.setitem(sys.modules, "shown", shown)
    monkeypatch.setitem(cli.DECISIONS, "race.json", "shown")
    classified(tmp_path / "race" / "lora")
    for status, sentence in (("completed", "Take lora."), ("running", "1 of 1 runs are completed; lora has")):
        write_json(tmp_path / "race" / "race.json", {"status": status, "recommendation": "Take lora."})
        found = verbs.call(capsys, "report", tmp_path / "race", "--json").value
        assert found[0]["sentence"].startswith(sentence)
        assert sentence in (tmp_path / "race" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", list(cli.DECISIONS.values()))
def test_the_pages_of_decisions_are_there(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"there is no {module} yet")
    assert callable(importlib.import_module(module).page)


def test_the_verb_refuses_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.call(capsys, "report", tmp_path / "none", "--json").error["problem"] == "no such run directory"
    empty = verbs.call(capsys, "report", tmp_path, "--json")
    assert empty.code == 6 and "not a run directory" in empty.error["problem"]
    with pytest.raises(DataError):
        folder.write(tmp_path)


@pytest.mark.report
@pytest.mark.usefixtures("one_thread")
def test_a_training_ends_with_a_report(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", labelled(24))
    run = train(tmp_path, tiny_bert, data, task="classify", train__max_steps=2, run__report=True)
    tree = safe((run.path / "report.html").read_text(encoding="utf-8"))
    shown = re.search(r"accuracy (0\.\d{3})", tree.text)
    assert shown and float(shown[1]) == pytest.approx(run.metrics["accuracy"], abs=5e-4)
    assert {"Scores", "Training", "Confusion", "Calibration", "Environment"} <= set(tree.text.split())
    assert (run.path / "report.md").is_file() and (run.path / "model" / "README.md").is_file()
    assert run.summary()["report"] == str(run.path / "report.html")
    assert len(run.predict(["great parcel"])) == 1  # the card is in nobody's way


@pytest.mark.report
@pytest.mark.usefixtures("one_thread")
def test_a_report_that_fails_does_not_fail_the_run(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ResourceError("cannot write: no space left on device", "free some disk space", "report.html")

    monkeypatch.setattr("tunery.report.pages.write", broken)
    data = write(tmp_path / "rows.jsonl", labelled(24))
    run = train(tmp_path, tiny_bert, data, task="classify", train__max_steps=1, run__report=True)
    assert run.manifest["status"] == "completed" and "no space left" in run.manifest["report_problem"]
    assert "no report was written" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert not (run.path / "report.html").exists()


@pytest.mark.report
@pytest.mark.usefixtures("one_thread")
def test_a_report_can_be_left_out(tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", questions(12))
    run = train(tmp_path, tiny_llama, data, train__max_steps=1, run__report=False)
    assert not (run.path / "report.html").exists() and "report_problem" not in run.manifest
