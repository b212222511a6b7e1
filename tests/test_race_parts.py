"""The parts of a race that train nothing: plans of time, scores of rows, sentences, controls, languages."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fake_trials
from small import labelled, write
from tunery import config
from tunery.config import ModelConfig
from tunery.data.rows import Rows
from tunery.decide import controls, finish, language, pace, race, race_report, rungs, standings, track, verdict
from tunery.decide.arms import Arm
from tunery.decide.ground import Ground
from tunery.decide.language import Language
from tunery.decide.rungs import Plan, Speed
from tunery.decide.standings import Candidate, Difference, Measure
from tunery.errors import ModelError
from tunery.models.load import open_base
from tunery.protocols import Example
from tunery.run import build
from tunery.rundir import RunDir, write_jsonl
from verbs import call

QUICK = Speed(start=8, step=0.1, evaluation=4, finish=8)
ACCURACY = Measure("accuracy", "classes")


# ------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("time", [120, 300, 600, 3600])
@pytest.mark.parametrize("entrants", [1, 2, 4, 12])
def test_a_plan_takes_no_longer_than_it_may(entrants: int, time: int, few: bool) -> None:
    plan = rungs.make(2000, entrants, QUICK, time, 2, few)
    assert plan.steps % rungs.STEPS == 0
    assert 1 <= plan.entrants <= entrants
    smallest = plan.entrants == 1 and plan.steps == rungs.STEPS
    assert smallest or rungs.seconds(plan, QUICK, plan.entrants, 2, few=few) <= time
    assert plan.until(len(plan.rungs) - 1) == plan.steps
    assert all(plan.until(number) % plan.every == 0 for number in range(len(plan.rungs)))


def test_more_time_means_longer_training_and_at_most_all_of_it() -> None:
    steps = [rungs.make(900, 9, QUICK, time, 2, False).steps for time in (400, 600, 900, 90_000)]
    assert steps == sorted(steps)
    assert steps[-1] == 900
    assert rungs.make(1000, 9, QUICK, 90_000, 2, False).steps == 999


def test_entrants_are_left_out_rather_than_all_cut_short() -> None:
    slow = Speed(start=8, step=0.4, evaluation=4, finish=8)
    plan = rungs.make(2000, 12, slow, 600, 2, False)
    assert 4 <= plan.entrants < 12
    assert plan.steps >= 2000 / 3
    named = rungs.make(2000, 12, slow, 600, 2, False, drop=False)
    assert named.entrants == 12  # the user wants them all
    assert named.steps < plan.steps


def test_slow_survivors_are_fewer() -> None:
    plan = Plan(900, 100, 9, rungs.ladder(9, few=False))
    slow = QUICK.slower(5)
    assert rungs.survivors(plan, 0, [QUICK] * 9, 600, 2, False) == 4
    assert rungs.survivors(plan, 0, [slow] * 9, 600, 2, False) == 1
    assert rungs.survivors(plan, 0, [QUICK] * 2 + [slow] * 7, 600, 2, False) == 2  # the best two are quick


# ------------------------------------------------------------------------------------------------- rows


def records(right: str) -> list[dict[str, Any]]:
    return [{"where": f"a:{i}", "prediction": "x" if c == "+" else "y", "reference": "x"} for i, c in enumerate(right)]


def candidate(name: str, right: str, kind: str = "method", seed: int = 1, **keys: Any) -> Candidate:
    found = Candidate(name, kind, **keys)
    rows = records(right)
    found.scores = {(seed, r["where"]): s for r, s in zip(rows, standings.score_rows(rows, ACCURACY), strict=True)}
    return found


def test_rows_are_scored_one_by_one() -> None:
    assert standings.score_rows(records("++-+"), ACCURACY) == [1, 1, 0, 1]
    uneven = [{"prediction": "a", "reference": "a"}] * 3 + [{"prediction": "a", "reference": "b"}]
    scores = standings.score_rows(uneven, Measure("recall_macro", "classes", uneven=True))
    assert sum(scores) / 4 == pytest.approx(0.5)  # all of one class, none of the other
    tags = [{"prediction": ["O", "B-X"], "reference": ["O", "O"]}]
    assert standings.score_rows(tags, Measure("token_accuracy", "tags")) == [0.5]
    numbers = [{"prediction": 1.5, "reference": 2.0}]
    assert standings.score_rows(numbers, Measure("mae", "numbers")) == [0.5]
    answers = [{"prediction": "the big apple", "reference": ["New York", "new big apple"]}]
    assert standings.score_rows(answers, Measure("f1", "text")) == [0.8]
    several = [{"prediction": ["a", "b"], "reference": ["a"]}]
    assert standings.score_rows(several, Measure("f1_samples", "multilabel")) == [pytest.approx(2 / 3)]


def test_a_row_of_several_seeds_counts_once() -> None:
    first, second = candidate("a", "++++----"), candidate("b", "+-+-----")
    one = standings.compare(first, second, True)
    assert one is not None
    for c, right in ((first, "++++----"), (second, "+-+-----")):
        c.scores |= {(2, where): s for (_, where), s in candidate("", right).scores.items()}
    two = standings.compare(first, second, True)
    assert two == one  # twice the same says no more
    assert one.rows == 8
    assert one.difference == 0.25


def test_errors_are_better_when_they_are_smaller() -> None:
    first, second = Candidate("a", "method", {(1, "x"): 0.1}), Candidate("b", "method", {(1, "x"): 0.4})
    found = standings.compare(first, second, higher_is_better=False)
    assert found is not None
    assert found.difference == pytest.approx(0.3)
    assert standings.compare(first, Candidate("c", "method", {(2, "x"): 0.4}), True) is None  # another split


# --------------------------------------------------------------------------------------------- sentences


def decide(candidates: list[Candidate], few: bool = False, known: Language | None = None) -> verdict.Verdict:
    best = max(candidates, key=lambda c: c.mean)
    pairs = [standings.compare(best, c, True) for c in candidates if c is not best]
    rows = verdict.Rows("test", len(best.scores), ACCURACY)
    return verdict.decide(candidates, best, [p for p in pairs if p], rows, known, "minilm", few)


GOOD, POOR = "+" * 90 + "-" * 10, "+-" * 50


def test_the_clear_winner_is_named() -> None:
    found = decide([candidate("lora", GOOD), candidate("full", POOR), candidate("tfidf", POOR, "baseline")])
    assert found.winner == "lora"
    assert found.sentence.startswith("Take lora: .900 accuracy on the 100 test rows")
    assert found.sentence.count(".\n") == 0


def test_a_baseline_that_beats_all_is_recommended_and_the_language_said() -> None:
    chinese = Language("CJK", "Chinese", 0.65, 1.0, 0.016, known=False)
    found = decide([candidate("naive_bayes", GOOD, "baseline"), candidate("full", POOR)], known=chinese)
    assert found.winner == "naive_bayes"
    assert "A baseline without any model beats every tuned entrant" in found.sentence
    assert "choose a base that knows Chinese" in found.sentence
    assert "65% of the tokens are unknown to the tokenizer of minilm" in found.sentence


def test_a_tie_goes_to_the_cheapest() -> None:
    near = GOOD.replace("-", "+", 1)
    both = [candidate("full", near, bytes=90_000_000), candidate("lora", GOOD, bytes=1_000_000)]
    found = decide(both)
    assert (found.best, found.winner, found.tied) == ("full", "lora", ("lora",))
    assert found.sentence.startswith("Tie: 100 test rows cannot tell full, lora apart")
    free = decide([*both, candidate("tfidf", GOOD, "baseline")])
    assert free.winner == "tfidf"
    assert free.sentence.endswith("which needs no model; more test rows may show that full is better.")


def test_of_few_rows_a_tie_goes_to_what_is_made_for_them() -> None:
    near = GOOD.replace("-", "+", 1)
    both = [candidate("ia3", near, bytes=10), candidate("cloze", GOOD, bytes=1_000_000, few_shot=True)]
    assert decide(both).winner == "ia3"
    found = decide(both, few=True)
    assert found.winner == "cloze"
    assert "made for few rows" in found.sentence


def test_test_rows_may_overturn_what_validation_rows_chose() -> None:
    first, second = candidate("lora", POOR), candidate("full", GOOD)
    pair = standings.compare(first, second, True)
    assert isinstance(pair, Difference)
    found = verdict.decide([first, second], first, [pair], verdict.Rows("test", 100, ACCURACY), None, "b", False)
    assert found.winner == "full"
    assert "which the validation rows preferred" in found.sentence


def test_nobody_finished() -> None:
    assert verdict.decide([], None, [], verdict.Rows("test", 0, ACCURACY), None, "b", False).winner is None


# ------------------------------------------------------------------------------------------------ the end

TAGS = [("B-X", "O", "O")] * 10
WORDS = [("parcel",), ("order",), ("refund",)] + [("voucher",)] * 7


def ended(
    folder: Path,
    task: str,
    expected: Sequence[Any],
    numbers: Mapping[str, float],
    answered: Mapping[str, Sequence[Any]],
    guessed: Mapping[str, Sequence[Any]],
    full_steps: int = 9,
    **manifest: Any,
) -> dict[str, Any]:
    """``race.json`` of a race whose trainings are written by hand.

    Args:
        expected: the reference of each row.
        numbers: the race's own number of each entrant.
        answered: what entrants gave for the first rows; ``guessed``: what baselines did for all.
        manifest: more of what all trainings say.
    """

    def told(given: Sequence[Any]) -> list[dict[str, Any]]:
        places = [f"v.jsonl:{i + 1}" for i in range(len(given))]
        return [{"where": w, "prediction": p, "reference": r} for w, p, r in zip(places, given, expected, strict=False)]

    settings = config.load(None, [f"task={task}", "method=lora", "model=tiny", "data.train=t.jsonl"])
    fitted, _ = build.parts(settings)
    fitted.fit([Example("t.jsonl", 1, words=("a", "b", "c"), tags=("B-X", "O", "O"))])
    base: Any = SimpleNamespace(name="tiny", parameters=lambda: 1, device=torch.device("cpu"))
    dataset: Any = None
    state = {
        "schema_version": race.SCHEMA_VERSION, "status": "running", "budget": 60.0, "seconds": 1.0, "workers": 1,
        "methods": None, "base": "tiny", "config": settings.dump(), "seeds": [settings.train.seed], "left_out": [],
        "rows": {"train": 1, "validation": len(expected)}, "controls": {"not_applicable": {}}, "plan": {"steps": 9},
        "full_steps": full_steps,
        "leaks": {"rows": 0, "near": 0, "policy": "drop", "first": None}, "legs": {},
    }  # fmt: skip
    made = race.Race(folder, Ground(settings, dataset, fitted, base, None, few=False), state)
    made.entrants = [Arm(name) for name in numbers]
    for name, number in numbers.items():
        run = RunDir.create(folder, made.run_name(Arm(name), settings.train.seed))
        run.write_config(settings)
        run.update_manifest(status="completed", metrics={made.metric: number}, **manifest)
        write_jsonl(run.evaluation("validation") / "predictions.jsonl", told(answered.get(name, ())))
        made.state["legs"][run.path.name] = {"status": "completed", "step": 9, "train_seconds": 1.0, "problem": ""}
    for name, given in guessed.items():
        for split in ("validation", "test"):
            write_jsonl(folder / "baselines" / f"seed{settings.train.seed}" / split / f"{name}.jsonl", told(given))
    finish.write(made, made.ranked(made.entrants, made.seeds), Plan(9, 1, len(numbers), rungs.ladder(2, few=False)))
    return race.load(folder)


def test_a_baseline_stands_in_the_table_with_the_races_own_number(tmp_path: Path) -> None:
    right = {"lora": [*TAGS[:8], ("O", "O", "O"), ("O", "O", "O")]}
    found = ended(tmp_path, "tag", TAGS, {"lora": 0.9}, right, {"most_frequent": [("O", "O", "O")] * 10})
    table = {row["name"]: row for row in found["table"]}
    assert found["metric"]["name"] == "entity_f1"
    assert (table["lora"]["score"], table["most_frequent"]["score"], table["most_frequent"]["test"]) == (0.9, 0, 0)
    assert found["decided_on"]["measure"] == "token_accuracy"
    assert table["lora"]["decided"] == pytest.approx(28 / 30)
    assert table["most_frequent"]["decided"] == pytest.approx(2 / 3)


def test_a_guess_has_no_loss_and_is_compared_on_the_rows_that_models_answered(tmp_path: Path) -> None:
    answered = {"lora": ["parcel", "order", "x"], "full": ["x", "order", "x"]}
    found = ended(tmp_path, "instruct", WORDS, {"lora": 1.2, "full": 1.4}, answered, {"constant": ["voucher"] * 10})
    table = {row["name"]: row for row in found["table"]}
    assert found["metric"]["name"] == "loss"
    assert (table["lora"]["score"], table["constant"]["score"], table["constant"]["test"]) == (1.2, None, None)
    assert table["constant"]["decided"] == 0, "right in seven rows that no model answered"
    assert found["decided_on"]["rows"] == 3
    assert all(difference["rows"] == 3 for difference in found["differences"])
    assert "3 validation rows" in found["recommendation"]


def test_entrants_that_answered_no_row_are_told_apart_by_their_number(tmp_path: Path) -> None:
    found = ended(tmp_path, "instruct", WORDS, {"full": 1.4, "lora": 1.2}, {}, {"constant": ["voucher"] * 10})
    assert (found["winner"], found["decided_on"], found["differences"]) == ("lora", None, [])
    assert found["recommendation"].startswith("Take lora: loss 1.2000 on the validation rows")


def test_steps_that_the_budget_did_not_allow_are_told(tmp_path: Path) -> None:
    said = {"lora": [words[0] for words in WORDS]}
    whole = ended(tmp_path / "whole", "extract_qa", WORDS, {"lora": 1.0}, said, {})
    short = ended(tmp_path / "short", "extract_qa", WORDS, {"lora": 1.0}, said, {}, full_steps=40)
    assert whole["warnings"] == []
    assert "9 of the 40 steps" in short["warnings"][0]


def test_columns_of_what_was_measured_and_of_what_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(folder: Path, found: dict[str, Any]) -> tuple[list[str], str]:
        """Columns of the report, and what the verb prints."""
        monkeypatch.setattr(race, "resume", lambda *_: folder)
        table: Any = race_report.page(folder, found).sections[0].blocks[0]
        return list(table.columns), call(capsys, "race", "--resume", folder).out

    plain, said = tmp_path / "plain", {"lora": [words[0] for words in WORDS]}
    columns, out = shown(plain, ended(plain, "extract_qa", WORDS, {"lora": 1.0}, said, {}))
    assert not {"decided", "forgetting"} & set(columns)
    assert "forgetting" not in out
    more, forgotten = tmp_path / "more", {"forgetting": {"relative": 0.125}}
    columns, out = shown(more, ended(more, "tag", TAGS, {"lora": 1.0}, {"lora": TAGS}, {}, **forgotten))
    assert {"decided", "forgetting"} <= set(columns)
    assert "validation token_accuracy" in out and "+12.5%" in out


def test_resume_goes_on_with_a_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ended(tmp_path, "tag", TAGS, {"lora": 0.9}, {"lora": TAGS}, {})
    gone_on: list[str] = []

    def resume(path: str) -> Path:
        gone_on.append(path)
        return tmp_path

    monkeypatch.setattr(race, "resume", resume)
    answer = call(capsys, "resume", tmp_path, "--json")
    assert (answer.code, gone_on) == (0, [str(tmp_path)])
    assert answer.value["recommendation"] == found["recommendation"]
    assert found["recommendation"] in call(capsys, "resume", tmp_path).out


# ------------------------------------------------------------------------------------------------- speeds


def probed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, outcomes: Mapping[str, str], workers: int = 1
) -> tuple[list[str], Any]:
    """→ the entrants that were measured, and a race that only measures. ``outcomes``: how each ends."""
    measured: list[str] = []

    def advance(name: str, *_: Any) -> dict[str, Any]:
        measured.append(name.removeprefix("speed-"))
        status = outcomes[measured[-1]]
        speed = {"start": 1.0, "step": 0.1, "evaluation": 1.0, "finish": 1.0} if status == "completed" else None
        return {"status": status, "problem": f"why {measured[-1]}", "speed": speed, "step": 16 if speed else 0}

    monkeypatch.setattr(track, "advance", advance)
    made = SimpleNamespace(
        entrants=[Arm(name) for name in outcomes], cpus=[[0]] * workers, folder=folder, seeds=[1],
        configured=lambda arm, seed, name, *_: name, log=lambda name: folder / name, clock=track.Clock(100.0),
        stop=threading.Event(), update=lambda **_: None,
    )  # fmt: skip
    return measured, made


def test_where_the_first_entrants_fail_others_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"lora": "failed", "adapter": "completed", "full": "failed", "ia3": "completed"}
    measured, made = probed(tmp_path, monkeypatch, outcomes)
    assert pace.probe(made) == Speed(1.0, 0.1, 1.0, 1.0)
    assert measured == ["lora", "full", "adapter"]
    measured, made = probed(tmp_path, monkeypatch, outcomes, workers=4)
    pace.probe(made)
    assert sorted(measured) == ["adapter", "full", "ia3", "lora"]


def test_if_no_entrant_can_be_measured_all_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = probed(tmp_path, monkeypatch, dict.fromkeys(("lora", "adapter", "full"), "failed"))
    with pytest.raises(ModelError, match="lora: why lora; full: why full; adapter: why adapter") as raised:
        pace.probe(made)
    assert raised.value.hint == "see the logs"


def test_where_time_is_up_no_other_entrant_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, made = probed(tmp_path, monkeypatch, {"lora": "interrupted", "full": "completed"})
    with pytest.raises(ModelError, match="lora: why lora") as raised:
        pace.probe(made)
    assert measured == ["lora"]
    assert "--budget" in raised.value.hint


# ---------------------------------------------------------------------------------------------- trainings


def test_a_training_that_never_got_a_manifest_begins_anew_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_trials.install(monkeypatch.setattr)
    keys = ["task=classify", "method=lora", "model=tiny", "data.train=t.jsonl", f"run.dir={tmp_path}", "run.name=a"]
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)

    def advance(timeout: float) -> dict[str, Any]:
        settings, stop = config.load(None, keys), threading.Event()
        return track.advance(settings, 1, [0], tmp_path / "log.txt", timeout, stop, {"step": 0}, None)

    leg = advance(60)
    assert (leg["run"], leg["status"], leg["step"]) == ("a", "paused", 1)
    assert RunDir.open(tmp_path / "a").manifest()["status"] == "paused"
    assert not (tmp_path / "a-2").exists()
    with RunDir(tmp_path / "a").lock():
        leg = advance(0.3)
    assert (leg["status"], leg["step"]) == ("interrupted", 0)
    assert "another process" in leg["problem"]


# ---------------------------------------------------------------------------------------------- controls


def rows(texts: list[str], name: str) -> Rows:
    labels = ("good", "bad")
    return Rows.of([Example(name, i + 1, text=text, label=labels[i % 2]) for i, text in enumerate(texts)])


def test_shuffled_labels_are_the_same_for_the_same_text() -> None:
    parts = {"train": rows([f"text {i}" for i in range(50)], "t"), "validation": rows(["text 3", "new"], "v")}
    drawn = controls.drawn(parts, seed=1)
    by_text = {example.text: label for example, label in drawn["train"]}
    assert drawn["validation"][0][1] == by_text["text 3"]
    changed = sum(example.label != label for example, label in drawn["train"])
    assert 10 < changed < 40  # half of them by chance
    assert drawn == controls.drawn(parts, seed=1)


@pytest.mark.parametrize("leak", [False, True])
def test_a_planted_leak_is_found_by_heart(leak: bool) -> None:
    pick = random.Random(3)
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join(pick.choices(words, k=12)) for _ in range(400)]
    train, held = rows(texts[:300], "t"), rows(texts[300:], "v")
    if leak:
        train = rows([*texts[:300], *texts[300:360]], "t")
    values = config.load(None, ["task=classify", "method=full"])
    task, _ = build.parts(values)
    task.fit(train)
    parts = controls.drawn({"train": train, "validation": held}, 42)
    right, count = controls.by_heart(task, parts)
    found = controls.learnt(right, count, [label for _, label in parts["validation"]])
    assert count == 100
    assert found["learnt"] == leak


def test_examples_of_every_label_come_before_the_question(tiny_llama: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", labelled(8))
    settings = config.load(None, [f"data.train={file}", f"model={tiny_llama}", "task=classify"])
    base = open_base(ModelConfig(name=str(tiny_llama)))
    task, _ = build.parts(settings)
    train = [Example("a", i, text=f"{{braces}} {i}", label=("good", "bad")[i % 2]) for i in range(8)]
    task.fit(train)
    found, reasons = controls.untrained(settings, task, base, {7: train}, "")
    assert not reasons
    zero, few = found
    template = few.changed(7)["task"]["template"]
    assert template.count("Label: good") == template.count("Label: bad") == 2
    assert template.endswith("Text: {text}\nLabel: {label}")
    assert "{{braces}} 0" in template
    assert "template" not in zero.changed(7)["task"]


def test_an_encoder_without_a_language_head_has_no_zero_shot(tiny_bert: Path) -> None:
    settings = config.load(None, [f"model={tiny_bert}", "task=classify"])
    task, _ = build.parts(settings)
    base = open_base(ModelConfig(name=str(tiny_bert)))
    found, reasons = controls.untrained(settings, task, base, {7: []}, "no masked-language head")
    assert found == []
    assert all("not applicable" in reason for reason in reasons.values())


# ---------------------------------------------------------------------------------------------- language


@pytest.mark.real
@pytest.mark.parametrize("pack", ["minilm", "smollm2"])
def test_the_packs_know_english_and_no_chinese(pack: str) -> None:
    tokenizer = open_base(ModelConfig(name=pack)).tokenizer
    english = language.look(["The room was clean and the staff were friendly, we will come back."] * 3, tokenizer)
    assert english.known
    assert english.script == "LATIN"
    chinese = language.look(["房间很干净，服务员也很热情，下次还会再来。"] * 3, tokenizer)
    assert not chinese.known
    assert "a base that knows Chinese" in chinese.advice


def test_texts_without_letters_are_of_no_language(tiny_bert: Path) -> None:
    assert language.look(["12 34", "!"], open_base(ModelConfig(name=str(tiny_bert))).tokenizer).known
