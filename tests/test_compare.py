"""Is one run better than another: intervals over rows and seeds, rows that differ, rows fixed and broken."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tunery
from small import labelled, one_thread, questions, write  # noqa: F401
from tunery import scoring
from tunery.decide import measures
from tunery.decide.answers import Answers
from tunery.decide.compare import compare
from tunery.decide.pairs import pair, pair_of, rows_to_decide
from tunery.errors import ConfigError, DataError, ModelError
from tunery.rundir import RunDir, read_jsonl, write_json, write_jsonl
from verbs import call

# ------------------------------------------------------------------------------------------- intervals


def right(share: float, count: int, seed: int) -> list[float]:
    pick = random.Random(seed)
    return [float(pick.random() < share) for _ in range(count)]


def test_a_large_difference_is_none_by_chance_and_a_small_one_is_a_tie() -> None:
    worse, better = right(0.6, 400, 0), right(0.8, 400, 1)
    found = pair(worse, better)
    assert not found.tie
    assert found.more_rows is None
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(sum(better) / 400 - sum(worse) / 400)
    assert pair(better, worse).difference == pytest.approx(-found.difference)
    assert pair(right(0.8, 400, 2), better).tie


def test_a_difference_of_one_row_in_many_is_no_proof() -> None:
    found = pair([0.0] + [1.0] * 99, [1.0] * 100)
    assert found.tie
    assert found.low <= 0 < found.high


def test_equal_answers_are_a_tie_that_no_rows_decide() -> None:
    found = pair([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.low, found.high, found.tie, found.more_rows) == (0, 0, True, None)


def test_one_row_is_a_tie_and_six_that_differ_are_asked_for() -> None:
    found = pair([0.0], [1.0])
    assert (found.tie, found.difference, found.more_rows) == (True, 1.0, 5)
    found = pair([0.0, 0.0, 0.0, 0.0, 1.0], [1.0] * 5)
    assert found.tie
    assert found.more_rows == 3, "of 8 rows 6 differ where 4 of 5 do"


def test_equal_models_are_told_apart_by_few_rows_in_one_case_in_twenty_at_most() -> None:
    pick = random.Random(0)
    told = 0
    for rows in (8, 20, 50, 100):
        for _ in range(100):
            changes = [pick.choice([1.0, -1.0]) for _ in range(pick.randint(3, 8))]
            told += not pair([0.0] * rows, changes + [0.0] * (rows - len(changes)), resamples=200).tie
    assert told / 400 <= 0.06


def test_with_the_rows_that_are_asked_for_four_in_five_ties_are_decided() -> None:
    """What ``rows_to_decide`` promises, by simulation: a true difference of .05, rows right or wrong."""
    needed = rows_to_decide(0.05, (0.05 + 0.10 - 0.05**2) ** 0.5)  # 10 % of rows fixed, 5 % broken
    assert needed is not None
    pick = random.Random(3)
    decided = 0
    for _ in range(200):
        changes = pick.choices([1.0, -1.0, 0.0], [0.10, 0.05, 0.85], k=needed)
        decided += not pair([0.0] * needed, changes, resamples=200).tie
    assert 0.68 <= decided / 200 <= 0.92


def simulated(pick: random.Random, runs: int, hard: list[float], spread: float) -> list[list[float]]:
    """Runs of one method: a row is right unless it is too hard for the run, which depends on the seed."""
    shifts = [pick.gauss(0, spread) for _ in range(runs)]
    return [[float(row + shift + pick.gauss(0, 0.4) > 0) for row in hard] for shift in shifts]


def test_one_method_against_itself_is_a_tie_only_if_the_interval_covers_seeds() -> None:
    pick = random.Random(0)
    over_rows = over_seeds = 0
    for _ in range(60):
        hard = [pick.gauss(1.5, 1.5) for _ in range(300)]
        first, second = (simulated(pick, 2, hard, 0.3) for _ in range(2))
        over_rows += not pair(first[0], second[0], resamples=200).tie
        found = pair(first, second, resamples=200)
        assert found.covers == "rows and seeds"
        over_seeds += not found.tie
    assert over_rows > 20
    assert over_seeds <= 7


def test_seeds_of_one_side_are_enough_and_runs_known_to_be_alike_need_none() -> None:
    first, second = right(0.7, 200, 0), right(0.8, 200, 1)
    only_rows = pair(first, second)
    assert only_rows.covers == "rows"
    assert only_rows.seed_deviation is None
    one_side = pair([first, right(0.7, 200, 2)], second)
    assert one_side.covers == "rows and seeds"
    assert one_side.runs == (2, 1)
    assert pair(first, second, alike=True).tie


def test_seeds_that_differ_too_much_cannot_be_outweighed_by_rows() -> None:
    first = [right(0.6, 100, 0), right(0.8, 100, 1)]
    second = [right(0.62, 100, 2), right(0.82, 100, 3)]
    found = pair(first, second)
    assert found.tie
    assert found.difference != 0
    assert found.more_rows is None


def test_rows_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="3 rows of the first, 2"):
        pair([1, 0, 1], [1, 0])


# ------------------------------------------------------------------------------------ numbers of rows


def answers(kind: str, predictions: list[Any], references: list[Any], **more: Any) -> Answers:
    rows = len(predictions)
    return Answers(
        "run", "rows", kind, (), places=[f"t:{i}" for i in range(rows)], inputs=["x"] * rows,
        predictions=predictions, references=references, contains=more.pop("contains", [()] * rows), **more,
    )  # fmt: skip


SAMPLES = {
    "classes": answers("classes", list("abcab"), list("aacbb")),
    "multilabel": answers("multilabel", [("a",), ("a", "b"), ()], [("a",), ("b",), ()]),
    "numbers": answers("numbers", [1.0, 2.5, 3.0], [1.0, 2.0, 5.0]),
    "text": answers(
        "text", ["the cat sat", '{"a": 1}', "Paris, 1889"], [("a cat sat",), ('{"a": 1}',), ("in Paris",)],
        contains=[(), (), ("1889",)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n, number in scoring.number_names().items() if number.mean_of_rows])
def test_what_is_called_a_mean_of_rows_is_one(name: str) -> None:
    sample = SAMPLES[scoring.metric_of(name).kind]
    scores = [score for score in measures.row_scores(sample, name) if score is not None]
    assert sum(scores) / len(scores) == pytest.approx(measures.value(sample, name))


def test_other_numbers_are_none() -> None:
    means = {n for n, number in scoring.number_names().items() if number.mean_of_rows}
    assert not means & {"f1_macro", "bleu", "entity_f1", "rmse", "loss", "field_f1", "f1_micro"}


@pytest.mark.parametrize("number", measures.CLASS_NUMBERS)
def test_counted_f1_is_the_metrics(number: str) -> None:
    pick = random.Random(0)
    rows = answers("classes", pick.choices("abcd", k=40), pick.choices("abc", k=40))
    drawn = [[pick.randrange(3) for _ in range(40)] for _ in range(5)]
    import numpy as np

    found = measures.measure(rows, number)(np.array(drawn, dtype=float))
    again = measures._again(rows, number)(np.array(drawn, dtype=float))
    assert found.tolist() == pytest.approx(again.tolist())


def test_numbers_of_all_rows_get_an_interval_too() -> None:
    pick = random.Random(1)
    references = [pick.choice("abc") for _ in range(150)]

    def guessed(share: float) -> Answers:
        return answers("classes", [r if pick.random() < share else "a" for r in references], references)

    worse, better = guessed(0.5), guessed(0.9)
    f1 = [[measures.measure(one, "f1_macro")] for one in (worse, better)]
    found = pair_of(f1[0], f1[1], 150, 20)
    assert not found.tie
    assert found.low < found.difference < found.high
    assert found.first == pytest.approx(measures.value(worse, "f1_macro"))
    assert pair_of(f1[0], f1[0], 150, 20).tie
    accuracy = pair([float(p == r) for p, r in zip(worse.predictions, references, strict=True)],
                    [float(p == r) for p, r in zip(better.predictions, references, strict=True)])  # fmt: skip
    recall = [[measures.measure(one, "recall_weighted")] for one in (worse, better)]
    same = pair_of(recall[0], recall[1], 150, 20, resamples=2000)
    assert (same.low, same.high) == pytest.approx((accuracy.low, accuracy.high), abs=0.015)


def test_fewer_than_six_differing_rows_are_a_tie_by_any_number() -> None:
    references = list("a" * 30 + "b" * 30)
    worse = answers("classes", ["b"] * 6 + references[6:], references)
    sides = [[measures.measure(one, "f1_macro")] for one in (worse, answers("classes", references, references))]
    assert pair_of(sides[0], sides[1], 60, 5).tie
    assert not pair_of(sides[0], sides[1], 60, 6).tie


def test_loss_weighs_rows_by_their_targets() -> None:
    import numpy as np

    rows = Answers("run", "rows", "loss", (), places=["a", "b", "c"], losses=[(6.0, 3), (2.0, 2), (1.0, 1)])
    found = measures.measure(rows, "loss")(np.array([[1.0, 1, 1], [0, 2, 1]]))
    assert found.tolist() == pytest.approx([9 / 6, 5 / 5])
    assert measures.value(rows, "loss") == pytest.approx(9 / 6)


# ------------------------------------------------------------------------------------------------ runs


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """A finished run of a classifier, with the predictions that are wanted, as training would have left it."""

    def make(name: str, predictions: str, references: str, seed: int = 1, **changes: Any) -> str:
        from tunery import config as configuration

        values = {
            "model": "minilm", "task": "classify", "method": changes.pop("method", "lora"),
            "data": {"train": "train.jsonl", "test": "test.jsonl", **changes.pop("data", {})},
            "train": {"seed": seed, "lr": changes.pop("lr", 1e-3)}, "run": {"dir": str(tmp_path), "name": name},
        }  # fmt: skip
        run = RunDir.create(tmp_path, name)
        run.write_config(configuration.build(values))
        metrics = {"accuracy": 0.5, "f1_macro": 0.5, "loss": 0.5}
        run.update_manifest(status=changes.pop("status", "completed"), seed=seed, metrics=metrics, data={}, base={})
        labels = sorted(set(references))
        write_json(run.model / "task.json", {"task": "classify", "state": {"labels": labels, "multi": False}})
        inputs = changes.pop("inputs", None) or [f"text {'x' * (i % 9)} {i}" for i in range(len(references))]
        rows = [
            {"where": f"test.jsonl:{i + 1}", "input": inputs[i], "prediction": p, "reference": r}
            for i, (p, r) in enumerate(zip(predictions, references, strict=True))
        ]
        write_jsonl(run.evaluation("test") / "predictions.jsonl", rows)
        assert not changes
        return str(run.path)

    return make


TRUE = "ab" * 100


def flipped(count: int, seed: int) -> str:
    places = set(random.Random(seed).sample(range(200), count))
    return "".join({"a": "b", "b": "a"}[c] if i in places else c for i, c in enumerate(TRUE))


def test_a_better_run_is_called_better(made: Callable[..., str]) -> None:
    worse, better = made("one", flipped(70, 1), TRUE, method="full"), made("two", flipped(20, 2), TRUE)
    found = compare([worse, better])
    assert found["metric"] == "accuracy"
    assert [side["name"] for side in found["sides"]] == ["full", "lora"]
    assert [side["value"] for side in found["sides"]] == pytest.approx([0.65, 0.9])
    (one,) = found["pairs"]
    assert one["better"] == "lora"
    assert one["verdict"].startswith("lora is better than full: accuracy +0.2500")
    assert one["fixed"]["count"] - one["broken"]["count"] == 50
    assert one["mcnemar"] == {
        "first_only": one["broken"]["count"], "second_only": one["fixed"]["count"], "p": pytest.approx(0, abs=1e-4)
    }  # fmt: skip
    row = one["fixed"]["rows"][0]
    assert row["first"] != row["reference"] == row["second"]
    assert row["where"].startswith("test.jsonl:")
    assert [part["class"] for part in one["classes"]] in (["a", "b"], ["b", "a"])
    assert sum(part["rows"] for part in one["lengths"]) == 200
    assert "train.seed=2" in found["notes"][-1]


def test_the_order_turns_the_sign_but_not_the_winner(made: Callable[..., str]) -> None:
    worse, better = made("one", flipped(70, 1), TRUE, method="full"), made("two", flipped(20, 2), TRUE)
    found, turned = compare([worse, better])["pairs"][0], compare([better, worse])["pairs"][0]
    assert turned["better"] == found["better"] == "lora"
    assert turned["difference"] == -found["difference"]
    assert turned["verdict"] == found["verdict"]
    assert turned["fixed"]["count"] == found["broken"]["count"]


def test_runs_that_differ_in_the_seed_alone_are_one_method(made: Callable[..., str]) -> None:
    runs = [made(f"r{i}", flipped(40 + i, i), TRUE, seed=i) for i in range(4)]
    alike = compare(runs[:2])
    assert alike["pairs"][0]["tie"]
    assert "one method" in alike["notes"][-1]
    others = [made(f"o{i}", flipped(20 + i, 9 + i), TRUE, seed=i, lr=3e-3) for i in range(2)]
    found = compare([*runs, *others])
    assert [len(side["runs"]) for side in found["sides"]] == [4, 2]
    assert [side["name"] for side in found["sides"]] == ["lr=0.001", "lr=0.003"]
    assert found["pairs"][0]["covers"] == "rows and seeds"
    assert found["pairs"][0]["mcnemar"] is None
    assert not found["notes"]


def test_groups_can_be_named(made: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    runs = [made(f"r{i}", flipped(40, i), TRUE, seed=i) for i in range(4)]
    sides = ["--group", f"old={runs[0]},{runs[1]}", "--group", f"new={runs[2]},{runs[3]}"]
    result = call(capsys, "compare", *sides, "--json")
    assert result.code == 0, result.err
    assert [side["name"] for side in result.value["sides"]] == ["old", "new"]
    assert result.value["pairs"][0]["tie"]
    for wrong in (["--group", "old"], ["--group", f"old={runs[0]}"], [runs[0], "--group", f"old={runs[1]}"]):
        assert call(capsys, "compare", *wrong, "--json").error["code"] == 2


def test_uneven_classes_are_compared_by_macro_f1(made: Callable[..., str]) -> None:
    true = "a" * 180 + "b" * 20
    good = "a" * 180 + "b" * 15 + "a" * 5
    found = compare([made("one", "a" * 200, true), made("two", good, true, method="full")], metric="f1_macro")
    assert found["metric"] == "f1_macro"
    assert found["judged_by"] == "accuracy"
    assert found["pairs"][0]["better"] == "full"


def test_macro_f1_needs_six_differing_rows_too(made: Callable[..., str]) -> None:
    true = "a" * 30 + "b" * 30
    best = made("best", true, true, method="full")
    for fixed, better in ((5, None), (6, "full")):
        (found,) = compare([made(f"worse-{fixed}", "b" * fixed + true[fixed:], true), best], metric="f1_macro")["pairs"]
        assert found["fixed"]["count"] == fixed
        assert (found["better"], found["tie"]) == (better, better is None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"predictions": TRUE[:50], "references": TRUE[:50]}, "it has 50 test rows"),
        ({"references": "ba" * 100}, "other answers are expected: row 1"),
        ({"inputs": ["other"] * 200}, "other test rows: row 1 .test.jsonl:1"),
    ],
)
def test_runs_on_other_rows_are_refused_with_the_reason(
    made: Callable[..., str], changes: dict[str, Any], reason: str
) -> None:
    first = made("one", flipped(20, 1), TRUE)
    second = made("two", **{"predictions": TRUE, "references": TRUE, **changes})
    with pytest.raises(DataError, match=reason):
        compare([first, second])


def test_what_cannot_be_compared_is_said(made: Callable[..., str], tmp_path: Path) -> None:
    one = made("one", flipped(20, 1), TRUE)
    with pytest.raises(ConfigError, match="two runs"):
        compare([one])
    with pytest.raises(ConfigError, match="twice"):
        compare([one, f"{one}/../one"])
    with pytest.raises(ModelError, match="interrupted"):
        compare([one, made("two", TRUE, TRUE, status="interrupted")])
    with pytest.raises(ConfigError, match="rougeL"):
        compare([one, made("three", TRUE, TRUE)], metric="rougeL")
    bare = made("four", TRUE, TRUE)
    shutil.rmtree(Path(bare) / "eval")
    with pytest.raises(DataError, match="--data"):
        compare([one, bare])
    damaged = made("five", TRUE, TRUE)
    (Path(damaged) / "eval" / "test" / "predictions.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged"):
        compare([one, damaged])


def test_the_command_prints_and_writes(
    made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = made("one", flipped(70, 1), TRUE, method="full"), made("two", flipped(20, 2), TRUE)
    out = tmp_path / "changed.jsonl"
    result = call(capsys, "compare", one, two, "--rows", "2", "--out", out)
    assert result.code == 0, result.err
    assert "lora is better than full" in result.out
    assert "McNemar p = 0.0000" in result.out
    assert "recall by class" in result.out
    assert "and 58 more" in result.out or "more (--rows N" in result.out
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = compare([one, two])["pairs"][0]
    assert len(rows) == found["fixed"]["count"] + found["broken"]["count"]
    assert rows[0]["kind"] == "fixed"


# ---------------------------------------------------------------------------------- runs that were trained


def test_trained_classifiers_on_their_test_rows_and_on_a_file(tiny_bert: Path, tmp_path: Path) -> None:
    files = {"train": str(write(tmp_path / "a.jsonl", labelled(40)))}
    files["test"] = str(write(tmp_path / "t.jsonl", labelled(24, seed=5)))
    other = str(write(tmp_path / "o.jsonl", labelled(16, seed=6)))
    runs = [
        tunery.train(
            data=files, model=str(tiny_bert), task="classify", method=method,
            train={"max_steps": 4, "lr": 3e-3}, run={"dir": str(tmp_path), "name": method}, eval={"baselines": False},
        )
        for method in ("full", "freeze")
    ]  # fmt: skip
    found = compare([run.path for run in runs])
    assert found["rows"] == 24
    assert [side["value"] for side in found["sides"]] == pytest.approx(
        [run.manifest["test_metrics"]["accuracy"] for run in runs]
    )
    on_file = compare([run.path for run in runs], data=[other])
    assert on_file["rows"] == 16
    assert on_file["sides"][0]["value"] == pytest.approx(runs[0].evaluate(other)["metrics"]["accuracy"])
    losses = compare([run.path for run in runs], metric="loss")
    assert losses["sides"][1]["value"] == pytest.approx(runs[1].manifest["test_metrics"]["loss"], rel=1e-4)
    assert not losses["higher_is_better"]


def test_trained_generators_by_answer_and_by_loss(tiny_llama: Path, tmp_path: Path) -> None:
    data = {name: str(write(tmp_path / f"{name}.jsonl", questions(n))) for name, n in (("train", 20), ("test", 6))}
    runs = [
        tunery.train(
            data=data, model=str(tiny_llama), method=method, train={"max_steps": 2},
            eval={"baselines": False, "base": False, "max_new_tokens": 4}, run={"dir": str(tmp_path), "name": method},
        ).path
        for method in ("full", "lora")
    ]  # fmt: skip
    by_text = compare(runs)
    assert scoring.metric_of(by_text["metric"]).kind == "text"
    by_loss = compare(runs, metric="loss")
    assert by_loss["rows"] == 6
    expected = [tunery.load(run).manifest["test_metrics"]["loss"] for run in runs]
    assert [side["value"] for side in by_loss["sides"]] == pytest.approx(expected, rel=1e-3)




def test_a_line_separator_in_a_text_is_no_end_of_line(tmp_path: Path) -> None:
    rows = [{"input": "one\u2028two\x85three", "reference": "a"}, {"input": "b", "reference": "b"}]
    write_jsonl(tmp_path / "predictions.jsonl", rows)
    assert read_jsonl(tmp_path / "predictions.jsonl") == rows
    assert len(read_jsonl(tmp_path / "predictions.jsonl", most=1)) == 1
