"""Baselines: what each guesses, that they are scored on the model's rows with the model's numbers, and what is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import verbs
from small import labelled, one_thread, questions, scored, several, spans, tagged, write  # noqa: F401
from tunery import baselines, registry
from tunery.config import DataConfig
from tunery.protocols import Example, Task
from tunery.run.dataset import load_dataset

CHINESE = [{"text": f"房间{'很好' if i % 2 else '太差'}，{i}", "label": "好评" if i % 2 else "差评"} for i in range(40)]


def fitted(rows: Sequence[Any], folder: Path, name: str | None = None) -> tuple[baselines.Baselines, Sequence[Example]]:
    found = load_dataset(DataConfig(train=str(write(folder / "t.jsonl", rows))), name, 1, ["train"])
    task: Task = registry.get("task", name or found.task)(registry.config_class("task", name or found.task)())
    task.fit(found.splits["train"], None)
    return baselines.fit(task, found.splits["train"]), found.splits["train"]


@pytest.mark.parametrize(
    ("rows", "task", "number", "better", "worse"),
    [
        (labelled(60), None, "accuracy", "tfidf", "majority"),
        (CHINESE, None, "accuracy", "naive_bayes", "majority"),
        (several(60), None, "f1_micro", "tfidf", "majority"),
        (
            [{"text": "very " * (i % 4) + "good", "label": i % 4 + 0.5} for i in range(40)],
            "regress",
            "r2",
            "tfidf",
            "mean",
        ),
        (
            [{"text": r["text"], "text_pair": "x", "label": r["label"]} for r in labelled(60)],
            None,
            "accuracy",
            "tfidf",
            "",
        ),
        (tagged(40), None, "entity_f1", "word_tag", ""),
        (
            [{"question": f"q{i}", "answer": "yes" if i % 3 else "no"} for i in range(20)],
            None,
            "exact_match",
            "constant",
            "",
        ),
        ([{"prompt": f"echo {i}", "response": f"echo {i}"} for i in range(20)], None, "rougeL", "copy", "constant"),
        (spans(20, longest=1), None, "f1", "first_sentence", "constant"),
    ],
)
def test_the_guesses_of_each_kind(
    rows: list[Any], task: str | None, number: str, better: str, worse: str, tmp_path: Path
) -> None:
    found, examples = fitted(rows, tmp_path, task)
    numbers = found.score(examples)
    assert numbers[better][number] > (numbers[worse][number] if worse else 0.5), numbers
    assert all("loss" not in values and "perplexity" not in values for values in numbers.values())
    again, _ = fitted(rows, tmp_path, task)
    assert again.score(examples) == numbers, "nothing is drawn at random"


def test_majority_and_constant_are_the_most_frequent() -> None:
    assert baselines._most_frequent(["b", "a", "a", "b", "c"]) == "b", "of equal ones the first"


def test_the_numbers_asked_for_and_the_rows_answered(tmp_path: Path) -> None:
    found, examples = fitted(labelled(40), tmp_path)
    assert set(found.score(examples, ["f1_macro", "loss"])["tfidf"]) == {"f1_macro"}
    found, examples = fitted([{"question": f"q{i}", "answer": "a" if i < 30 else "b"} for i in range(40)], tmp_path)
    assert found.score(examples, ["exact_match"])["constant"] == {"exact_match": 0.75}
    assert found.score(examples, ["exact_match"], answers=10)["constant"] == {"exact_match": 1.0}
    assert found.score(examples, answers=0) == {}


def test_documents_have_none(tmp_path: Path) -> None:
    found, examples = fitted([{"text": f"words {i}"} for i in range(10)], tmp_path)
    assert found.guesses == {} and found.score(examples) == {}


def test_texts_without_words(tmp_path: Path) -> None:
    found, _ = fitted([{"text": chr(0x1F600 + i), "label": "ab"[i % 2]} for i in range(10)], tmp_path)
    assert "majority" in found.guesses
    rows = [{"text": f"w{i}", "label": "ab"[i % 2]} for i in range(200)]
    assert set(fitted(rows, tmp_path)[0].guesses) == {"majority"}, "no word stands in two rows"


def test_large_data_is_cut_down_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "ROWS", 400)
    monkeypatch.setattr(baselines, "CHARACTERS", 6_000)
    found, examples = fitted(labelled(500), tmp_path)
    assert any("fitted to 400 of 500 training rows" in note for note in found.notes)
    assert any("saw" in note for note in found.notes)
    assert found.score(examples)["tfidf"]["accuracy"] > 0.9
    monkeypatch.setattr(baselines, "WORK", 500)
    assert any("saw 100 training rows" in note for note in fitted(labelled(500), tmp_path)[0].notes)


def test_a_verdict_only_where_the_baseline_is_better(tmp_path: Path) -> None:
    task = registry.get("task", "classify")(registry.config_class("task", "classify")())
    simple = {"majority": {"accuracy": 0.5}, "tfidf": {"accuracy": 0.8}}
    line = baselines.verdict(task, {"accuracy": 0.75, "loss": 1.0}, simple, "test")
    assert line == "the baseline tfidf beats the tuned model on the test rows: accuracy 0.8000 against 0.7500"
    assert baselines.verdict(task, {"accuracy": 0.8}, simple, "test") is None
    assert baselines.verdict(task, {"loss": 0.8}, simple, "test") is None
    regress = registry.get("task", "regress")(registry.config_class("task", "regress")())
    low = {"mean": {"rmse": 0.5}, "tfidf": {"rmse": 0.2}}
    assert "tfidf" in str(baselines.verdict(regress, {"rmse": 0.3}, low, "x")), "lower is better there"
    assert baselines.verdict(regress, {"rmse": 0.1}, low, "x") is None
    assert baselines.verdict(task, {"accuracy": 0.1}, {}, "x") is None


def test_train_and_eval_show_them(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        f"data.{name}={write(tmp_path / f'{name}.jsonl', labelled(n, n))}" for name, n in (("train", 40), ("test", 20))
    ]
    given += [f"model={tiny_bert}", "task=classify", "train.max_steps=1", f"run.dir={tmp_path / 'runs'}"]
    answer = verbs.call(capsys, "train", *given, "run.name=a", "--json")
    assert answer.code == 0, answer.err
    found = answer.value
    names = {"majority", "tfidf", "naive_bayes"}
    assert set(found["baselines"]) == set(found["test_baselines"]) == names
    assert found["test_baselines"]["tfidf"]["accuracy"] > 0.9 > found["test_metrics"]["accuracy"]
    assert any("beats the tuned model on the test rows" in line for line in found["verdicts"])
    results = json.loads((tmp_path / "runs/a/eval/test/results.json").read_text())
    assert results["baselines"] == found["test_baselines"]
    scores = verbs.call(capsys, "eval", tmp_path / "runs/a", "--json").value
    assert scores["baselines"] == found["test_baselines"] and scores["verdicts"]
    table = verbs.call(
        capsys, "eval", tmp_path / "runs/a", "--data", tmp_path / "test.jsonl", "--metric", "accuracy"
    ).out
    assert "majority" in table and "naive_bayes" in table and "beats the tuned model" in table
    write(tmp_path / "train.jsonl", labelled(30))
    changed = verbs.call(capsys, "eval", tmp_path / "runs/a", "--data", tmp_path / "test.jsonl", "--json")
    assert changed.code == 0 and changed.value["baselines"] == {} and "has changed since training" in changed.err
    off = verbs.call(capsys, "train", *given, "run.name=b", "eval.baselines=false", "--json")
    assert off.value["baselines"] == {} and off.value["verdicts"] == []
