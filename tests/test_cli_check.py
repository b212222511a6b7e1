"""``tunery check``: counts that agree with the files, every kind of finding, and train's own verdict."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import verbs
from small import labelled, questions, scored, write
from tunery import config
from tunery.data import rows
from tunery.errors import DataError, ModelError
from tunery.run import check as run_check
from tunery.run.check import check, quantiles
from tunery.run.prepare import prepare
from tunery.tasks.instruct import Instruct

KEYS = {"rows_read", "used", "splits", "dropped", "findings", "supervised_tokens", "truncated"}
BAD = {"text": "", "label": "good"}


def kinds(result: dict[str, Any]) -> dict[str, list[int]]:
    """Lines of the findings by kind."""
    found: dict[str, list[int]] = {}
    for finding in result["findings"]:
        assert set(finding) == {"kind", "file", "line", "message"} and finding["message"]
        found.setdefault(finding["kind"], []).append(finding["line"])
    return found


def looked(folder: Path, model: Path, rows: list[Any], *overrides: str, **splits: list[Any]) -> dict[str, Any]:
    files = {name: str(write(folder / f"{name}.jsonl", given)) for name, given in {"train": rows, **splits}.items()}
    return check(config.load(None, overrides, {"model": str(model), "data": files}))


def test_classification(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write(tmp_path / "t.jsonl", labelled(60))
    test = write(tmp_path / "e.jsonl", labelled(20, seed=5))
    answer = verbs.call(capsys, "check", f"data.train={train}", f"data.test={test}", f"model={tiny_bert}", "--json")
    assert answer.code == 0
    found = answer.value
    assert set(found) >= KEYS and "exit_code" not in found
    assert (found["rows_read"], found["used"], found["dropped"]) == (80, 80, {})
    assert found["splits"] == {"train": 54, "validation": 6, "test": 20}
    assert found["labels"]["train"] == {"good": 27, "bad": 27} and found["supervised_tokens"] == 80
    assert (found["format"], found["task"], found["max_length"]) == ("labels", "classify", 256)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    lengths = sorted(len(tokenizer(row["text"])["input_ids"]) for row in [*labelled(60), *labelled(20, seed=5)])
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (lengths[0], lengths[-1])
    assert sum(part["tokens"] for part in found["details"].values()) == sum(lengths)
    told = verbs.call(capsys, "check", f"data.train={train}", f"data.test={test}", f"model={tiny_bert}")
    assert "train would accept this data" in told.out and "good" in told.out


def test_supervised_tokens_are_those_of_the_answers(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [*questions(30), {"question": "退货期限？", "answer": "三十天。"}]
    found = looked(tmp_path, tiny_llama, rows)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    answers = [len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert found["supervised_tokens"] == sum(answers) + len(rows), "each answer, and the token that ends it"
    assert found["labels"] == {} and found["refused"] is None and found["exit_code"] == 0
    assert not {"prompt_mismatch", "no_end"} & set(kinds(found))


def test_bad_rows_are_all_named(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", [*labelled(20), "not json", BAD, {"text": "x"}, *labelled(3, seed=2)])
    args = (f"data.train={file}", f"model={tiny_bert}")
    strict = verbs.call(capsys, "check", *args, "--json")
    assert strict.code == 3
    assert kinds(strict.value)["bad_row"] == [21, 22, 23]
    assert strict.value["dropped"] == {"bad": 3} and strict.value["used"] == 23 and strict.value["rows_read"] == 26
    assert strict.value["refused"]["where"] == f"{file}:21"
    assert verbs.call(capsys, "check", *args).out.count("train would refuse this data") == 1
    lenient = verbs.call(capsys, "check", *args, "data.on_bad_row=drop", "--json")
    assert lenient.code == 0 and kinds(lenient.value)["bad_row"] == [21, 22, 23]


def test_ledger(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, ledger = write(tmp_path / "t.jsonl", [*labelled(20), BAD]), tmp_path / "out" / "ledger.csv"
    verbs.call(capsys, "check", f"data.train={file}", f"model={tiny_bert}", "--ledger", ledger)
    with ledger.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["where"] for row in rows] == [f"{file}:{line}" for line in range(1, 22)]
    assert {row["bucket"] for row in rows} == {"used:train", "used:validation", "dropped:bad"}
    assert rows[-1]["bucket"] == "dropped:bad" and "blank" in rows[-1]["note"]
    assert {row["split"] for row in rows} == {"train"}


def test_duplicates_conflicts_leaks(tmp_path: Path, tiny_bert: Path) -> None:
    train = [*labelled(60), {"text": "Again", "label": "good"}, {"text": " again", "label": "good"}]
    train += [{"text": "odd", "label": "good"}, {"text": "odd", "label": "bad"}, {"text": "leak", "label": "Good "}]
    test = [*labelled(6, seed=9), {"text": "LEAK", "label": "good"}]
    found = looked(tmp_path, tiny_bert, train, validation=labelled(8, seed=4), test=test)
    lines = kinds(found)
    assert lines["duplicate"] == [62] and lines["conflict"] == [64] and lines["leak"] == [65]
    assert lines["label_variant"] == [65] and found["exit_code"] == 0


def test_labels_that_training_never_saw(tmp_path: Path, tiny_bert: Path) -> None:
    splits = {"validation": [*labelled(6, seed=3), {"text": "so so", "label": "neutral"}]}
    found = looked(tmp_path, tiny_bert, labelled(60), **splits)
    assert kinds(found)["bad_row"] == [7] and found["exit_code"] == 3
    assert "'neutral' is not among the training rows" in found["findings"][0]["message"]
    assert looked(tmp_path, tiny_bert, labelled(60), "data.on_bad_row=drop", **splits)["exit_code"] == 0


def test_labels_that_are_not_the_configured_ones(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [*labelled(20), {"text": "so so", "label": "neutral"}]
    found = looked(tmp_path, tiny_bert, rows, "data.labels=[good, bad]", validation=labelled(6, seed=3))
    assert kinds(found)["bad_row"] == [21] and found["used"] == 26 and found["exit_code"] == 3


def test_numbers(tmp_path: Path, tiny_bert: Path) -> None:
    found = looked(tmp_path, tiny_bert, [*scored(30), {"text": "x", "label": "many"}], "task=regress")
    assert kinds(found)["bad_row"] == [31] and found["labels"] == {} and found["exit_code"] == 3


def test_long_rows(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [*labelled(30), {"text": "parcel " * 200, "label": "good"}]
    cut = looked(tmp_path, tiny_bert, rows, "data.max_length=99", validation=labelled(6, seed=3))
    assert cut["truncated"] == 1 and kinds(cut)["truncated"] == [31] and cut["exit_code"] == 0
    assert cut["lengths"]["max"] > 200, "lengths are those of whole rows: max_length is chosen by them"
    more = ("data.max_length=99", "data.on_long=error")
    strict = looked(tmp_path, tiny_bert, rows, *more, validation=labelled(6, seed=3))
    assert kinds(strict)["too_long"] == [31] and strict["exit_code"] == 3
    assert strict["dropped"] == {"too_long": 1} and strict["used"] == 36


def test_documents_are_cut_into_windows(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [{"text": "the parcel arrives on Monday " * 30}, {"text": "short"}, {"text": "other"}]
    found = looked(tmp_path, tiny_llama, rows, "task=lm", "data.max_length=32", validation=[{"text": "more"}])
    assert found["windows"] > 3 and found["truncated"] == 0
    assert found["supervised_tokens"] == sum(p["tokens"] for p in found["details"].values()) - found["windows"] - 4


@pytest.mark.parametrize(("method", "kind"), [("prompt", "prompt_mismatch"), ("stop_ids", "no_end")])
def test_templates_that_do_not_fit(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    monkeypatch.setattr(Instruct, method, lambda *args: [399])
    found = looked(tmp_path, tiny_llama, questions(60))
    assert kinds(found)[kind] == [1] and "(60 rows)" in next(
        f["message"] for f in found["findings"] if f["kind"] == kind
    )


@pytest.mark.parametrize(
    "rows",
    [
        ["nothing", "but"],
        [{"text": "x", "label": "a"}] * 5,
        [{"text": f"x{i}", "label": "a"} for i in range(5)],
        [{"text": "parcel " * 300, "label": label} for label in "abababab"],
        [{"alpha": 1}],
    ],
)
def test_nothing_usable(rows: list[Any], tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", rows)
    answer = verbs.call(capsys, "check", f"data.train={file}", f"model={tiny_bert}", "--json")
    assert answer.code == 3 and answer.error["hint"] and answer.err.count("\n") <= 2


NEUTRAL = {"text": "so so", "label": "neutral"}
LONG = {"text": "parcel " * 200, "label": "good"}
NAN = {"text": "x", "label": "much"}


@pytest.mark.parametrize("policy", ["error", "drop"])
@pytest.mark.parametrize(
    ("train", "validation", "overrides"),
    [
        (labelled(20), None, ()),
        ([*labelled(20), BAD], None, ()),
        ([*labelled(20), BAD], labelled(5), ()),
        (labelled(20), [*labelled(5), NEUTRAL], ()),
        (labelled(20), [NEUTRAL], ()),
        ([*labelled(20), NEUTRAL], labelled(5), ("data.labels=[good, bad]",)),
        ([*labelled(20), LONG], labelled(5), ("data.max_length=99",)),
        ([*labelled(20), LONG], labelled(5), ("data.max_length=99", "data.on_long=error")),
        ([*labelled(20), LONG], labelled(5), ("data.max_length=99", "data.on_long=drop")),
        (labelled(20), [LONG], ("data.max_length=99",)),
        (labelled(20), [LONG], ("data.max_length=99", "data.on_long=truncate")),
        ([*scored(20), NAN], scored(5), ("task=regress",)),
        (scored(20), [*scored(5), NAN], ("task=regress",)),
    ],
)
def test_agrees_with_train(
    train: list[Any],
    validation: list[Any] | None,
    overrides: tuple[str, ...],
    policy: str,
    tmp_path: Path,
    tiny_bert: Path,
) -> None:
    """Exit code 0 exactly where training would go on to load the weights."""
    data = {"train": str(write(tmp_path / "t.jsonl", train)), "on_bad_row": policy}
    if validation is not None:
        data["validation"] = str(write(tmp_path / "v.jsonl", validation))
    chosen = config.load(None, overrides, {"model": str(tiny_bert), "data": data, "run.dir": str(tmp_path)})
    try:
        prepared = prepare(chosen)
    except DataError:
        accepted = False
    else:
        accepted = True
    try:
        found = check(chosen)
    except DataError:
        assert not accepted
        return
    assert (found["exit_code"] == 0) is accepted
    if accepted:
        assert found["splits"] == {name: len(split.examples) for name, split in prepared.splits.items()}
        assert found["supervised_tokens"] == sum(split.supervised for split in prepared.splits.values())


def test_quantiles() -> None:
    assert quantiles([]) == {}
    assert quantiles([7]) == {"min": 7, "median": 7, "p95": 7, "max": 7}
    assert quantiles(range(101)) == {"min": 0, "median": 50, "p95": 95, "max": 100}


def test_a_model_that_training_would_refuse(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="task instruct needs a decoder"):
        looked(tmp_path, tiny_bert, questions(12))


def test_tokens_of_very_many_rows_are_an_estimate(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = looked(tmp_path, tiny_bert, labelled(400))
    monkeypatch.setattr(rows, "ALL", 100)
    monkeypatch.setattr(rows, "IN_MEMORY", 50)
    monkeypatch.setattr(run_check, "SAMPLE", 80)
    found = looked(tmp_path, tiny_bert, labelled(400), "data.near_duplicates=false")
    assert not exact["estimated"] and found["estimated"]
    assert 50 < found["details"]["train"]["estimated_from"] < 80
    assert found["details"]["train"]["rows"] == exact["details"]["train"]["rows"]
    assert found["details"]["train"]["tokens"] == pytest.approx(exact["details"]["train"]["tokens"], rel=0.1)
    for key in ("rows_read", "used", "splits", "labels", "dropped"):
        assert found[key] == exact[key]
    kinds_of = [[f["kind"] for f in part["findings"] if f["kind"] != "near_duplicate"] for part in (exact, found)]
    assert kinds_of[0] == kinds_of[1]
