"""tunery prompts: scores against those of a run, what is shared, words, examples, proposals, halving, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import verbs
from small import labelled, lively, one_thread, questions, write  # noqa: F401
from tunery import config as configuration
from tunery.data import cloze
from tunery.data.batch import collate
from tunery.decide import candidates, label_words, ladder, prompts, proposals, shots, trial
from tunery.decide.candidates import Candidate
from tunery.decide.prompt_material import open_material
from tunery.decide.prompt_scores import AnswerScorer, ClozeScorer, Material, Score, Scorer, scorer
from tunery.errors import ConfigError, DataError, Interrupted, ModelError
from tunery.models import shared_text
from tunery.protocols import Example
from tunery.run.train import train
from tunery.rundir import RunDir

TEMPLATE = "Review: {text} | Sentiment: {label}"
WORDS = {"good": ["great", "good"], "bad": ["awful", "very bad"]}
LITTLE = prompts.Options(rows=40, proposals=4, words=2, shots=2, draws=1)


@pytest.fixture
def place(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a model whose answers depend on what it reads."""
    lively(tiny_llama, tmp_path / "model")
    write(tmp_path / "train.jsonl", labelled(60))
    write(tmp_path / "validation.jsonl", labelled(40, seed=1))
    write(tmp_path / "test.jsonl", labelled(20, seed=2))
    write(tmp_path / "qa.jsonl", questions(40, longest=6))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(*more: str, **sections: Any) -> configuration.Config:
    values: dict[str, Any] = {
        "model": {"name": "model", "dtype": "float32"},
        "task": "cloze",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
    }
    return configuration.load(None, more, {**values, **sections})


def material_of(*more: str, rows: int = 40, **sections: Any) -> Material:
    return open_material(config_of(*more, **sections), rows, None)[0]


def qa() -> dict[str, Any]:
    return {"task": "instruct", "data": {"train": "qa.jsonl"}}


def one(template: str = TEMPLATE, calibrate: bool = False, **more: Any) -> Candidate:
    return Candidate("hand", {"template": template, "verbaliser": WORDS, "calibrate": calibrate, **more})


# ----------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_score_is_what_a_run_evaluates(calibrate: bool, place: Path) -> None:
    material = material_of()
    found = scorer(material).score(one(calibrate=calibrate), 40)
    prompts.configuration_of(material, one(calibrate=calibrate), place / "best.yaml")
    run = train(configuration.load("best.yaml", ["train.max_steps=0", "train.lr=1e-3"]))
    metrics = run.manifest()["metrics"]
    assert found.value == pytest.approx(metrics["accuracy"])
    assert found.loss == pytest.approx(metrics["loss"], abs=1e-4)


def test_with_examples_too(place: Path) -> None:
    material = material_of()
    candidate = shots.with_examples(material, one(calibrate=True), material.pool[:3])
    found = scorer(material).score(candidate, 40)
    prompts.configuration_of(material, candidate, place / "best.yaml")
    best = configuration.load("best.yaml", ["train.max_steps=0", "train.lr=1e-3"])
    assert best.data.max_length == 256 + candidate.longer
    metrics = train(best).manifest()["metrics"]
    assert found.value == pytest.approx(metrics["accuracy"])
    assert found.loss == pytest.approx(metrics["loss"], abs=1e-3)


def test_templates_and_rows_are_read_once(place: Path) -> None:
    """Words, calibration and more rows of a template give what they give alone."""
    material = material_of()
    several = [one(), one(calibrate=True), one().changed("words", verbaliser={"good": ["yes"], "bad": ["no"]})]
    together, calls = scorer(material), []
    assert isinstance(together, ClozeScorer)
    whole = together._scores
    together._scores = lambda *a: calls.append(a[2:4]) or whole(*a)  # type: ignore[method-assign, func-returns-value]
    together.expect(several)
    for rows in (16, 40):
        for candidate in several:
            alone = scorer(material).score(candidate, rows)
            assert together.score(candidate, rows).loss == pytest.approx(alone.loss, abs=1e-4)
    assert calls == [(0, 16), (16, 40)]
    late = one().changed("words", verbaliser={"good": ["film"], "bad": ["parcel"]})
    assert together.score(late, 16).loss == pytest.approx(scorer(material).score(late, 16).loss, abs=1e-4)


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
def test_a_shared_text_is_read_once(model: str, place: Path, request: pytest.FixtureRequest) -> None:
    folder = lively(request.getfixturevalue(model), place / f"lively-{model}")
    material = material_of(model={"name": str(folder), "dtype": "float32"})
    front = "The film is good, great, wonderful. Please answer the question: "
    task: Any = scorer(material).made(one(front + TEMPLATE))
    task.bind(material.base)
    rows = [task.encode(row, material.base.tokenizer, 256)[0] for row in material.rows[:6]]
    assert shared_text.shared(rows) >= shared_text.LEAST
    with torch.inference_mode():
        after, rest = shared_text.after(material.model, rows)
        assert len(rest[0].ids) < len(rows[0].ids)
        whole = task.scores(material.model, collate(rows, 0))
        for _ in range(2):  # reading rows leaves the text as it is
            torch.testing.assert_close(task.scores(after, collate(rest, 0)), whole, rtol=0, atol=1e-4)


def test_what_is_predicted_is_not_shared() -> None:
    from tunery.protocols import IGNORE, Encoded

    ids = list(range(30))
    assert shared_text.shared([Encoded(ids, span=(25, 25)), Encoded([*ids, 99], span=(28, 28))]) == 24
    labels = [*[IGNORE] * 20, *ids[20:]]
    assert shared_text.shared([Encoded(ids, labels), Encoded(ids, labels)]) == 19
    assert shared_text.shared([Encoded(ids[:10], span=(9, 9)), Encoded(ids, span=(28, 28))]) == 0
    cut = shared_text.behind(Encoded(ids, labels, row=3), 19)
    assert (cut.ids, cut.labels, cut.row) == (ids[19:], [IGNORE, *ids[20:]], 3)


def test_answers_are_scored_by_their_loss(place: Path) -> None:
    material = material_of(**qa())
    candidate = Candidate("hand", {"template": "model", "system": "Please answer the question: where is my parcel?"})
    found = scorer(material).score(candidate, len(material.rows))
    by_halves = scorer(material)
    by_halves.score(candidate, 3)
    assert by_halves.score(candidate, len(material.rows)).loss == pytest.approx(found.loss, abs=1e-4)
    prompts.configuration_of(material, candidate, place / "best.yaml")
    config = configuration.load("best.yaml")
    assert config.dump()["task"]["system"] == candidate.task["system"]
    task = scorer(material).made(candidate)
    total = count = 0.0
    for row in material.rows:
        loss, n, _ = task.loss(material.model, collate(task.encode(row, material.base.tokenizer, 512), 0))
        total, count = total + float(loss.detach()), count + int(n)
    assert found.loss == pytest.approx(total / count, abs=1e-3)


def test_answers_are_scored_by_another_number(place: Path) -> None:
    material = replace(material_of("eval.max_new_tokens=4", **qa()), metric="exact_match")
    found = scorer(material).score(Candidate("hand", {"system": "Answer."}), 4)
    assert 0 <= found.value <= 1
    assert found.loss != found.value


# ------------------------------------------------------------------------------------------------- words


def planted(material: Material, likely: dict[str, dict[str, float]]) -> torch.Tensor:
    """Log-probabilities in which the words of a label's rows are as likely as told."""
    size, shares = len(material.base.tokenizer), []
    pick = torch.Generator().manual_seed(0)
    for row in material.pool:
        found = torch.full((size,), -12.0) + 0.01 * torch.rand(size, generator=pick)
        for word, value in likely[str(row.label)].items():
            found[material.base.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0]] = value
        shares.append(found)
    return torch.stack(shares)


def test_words_of_the_vocabulary_are_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = material_of()
    every = ClozeScorer(material)
    good, bad = {"order": -1.0, "France": -2.0, "the": -0.5}, {"order": -4.0, "France": -6.0, "is": -2.0, "the": -0.5}
    shares = planted(material, {"good": good, "bad": bad})
    monkeypatch.setattr(every, "vocabulary", lambda *_: shares)
    monkeypatch.setattr(label_words, "_begun", lambda *_: set())
    found = label_words.search(every, one(), 5)
    assert found
    assert found[0]["bad"] == ["is"]
    assert found[0]["good"][0] in ("order", "France")
    parsed = cloze.parse(TEMPLATE)
    for words in found:
        flat = [word for every_word in words.values() for word in every_word]
        assert len(set(flat)) == len(flat), "distinct"
        assert all(len(ids) == 1 for ids in cloze.word_ids(parsed, flat, material.base.tokenizer)), "whole"
        assert all(word.isalpha() for word in flat)


def test_beginnings_of_words_are_no_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the token of "order" this model goes on with a letter, after that of "the" with a space."""
    material = material_of()
    tokenizer = material.base.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (" order", " the", "x", " x")]
    order, the, letter, space = ids

    def answer(input_ids: torch.Tensor, **_: Any) -> Any:
        last = [letter if token == order else space for token in input_ids[:, -1].tolist()]
        logits = torch.nn.functional.one_hot(torch.tensor(last), len(tokenizer)).float() * 50
        return SimpleNamespace(logits=logits.unsqueeze(1))

    every = ClozeScorer(material)
    monkeypatch.setattr(material.model, "forward", answer)
    assert label_words._begun(every, one(), [order, the]) == {order}


def test_no_words_where_a_class_has_no_row(place: Path) -> None:
    material = material_of()
    only = [row for row in material.pool if row.label == "good"]
    assert label_words.search(ClozeScorer(replace(material, pool=only)), one(), 5) == []


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_roberta", "tiny_t5"])
def test_the_vocabulary_says_what_words_score(model: str, place: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    material = material_of(model={"name": str(folder), "dtype": "float32"})
    every = ClozeScorer(material)
    shares = every.vocabulary(one(), material.rows[:5])
    task, _ = every._words(one())
    ids = cloze.word_ids(task.template, ["good"], material.base.tokenizer)
    if len(ids[0]) == 1:
        found = every._scores(task, ids, 0, 5, 256)
        torch.testing.assert_close(shares[:, ids[0][0]], found[:, 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(shares.exp().sum(1), torch.ones(5), rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------- examples


def test_examples_mean_nothing_in_a_template(place: Path) -> None:
    rows = [{"text": "a {label} or {x} }{", "label": "good"}, {"text": "plain {{text}}", "label": "bad"}]
    write(place / "train.jsonl", [*rows, {"text": "soft [soft:3]", "label": "bad"}, *labelled(20)])
    material = material_of()
    nasty = [row for row in material.rows + material.pool if "{" in row.text]  # type: ignore[operator]
    nasty = nasty or [Example("f", 1, text=row["text"], label=row["label"]) for row in rows]
    found = shots.with_examples(material, one(), nasty)
    parsed = cloze.parse(str(found.task["template"]))
    assert [part.field for part in parsed.parts if part.field] == ["text", "label"]
    assert parsed.parts[0].literal.startswith(f"Review: {nasty[0].text} | Sentiment: ")
    assert not shots._plain(Example("f", 1, text="soft [soft:3]"))
    assert not shots._plain(Example("f", 1, text="\U00100000"))


def test_examples_are_of_all_classes_and_not_scored(place: Path) -> None:
    material = material_of(data={"train": "train.jsonl"}, rows=30)
    places = {row.where for row in material.rows}
    assert len(material.rows) == 30, "validation rows and training rows"
    found = shots.choices(material, 4, 3, seed=1)
    assert len(found) == 4
    for rows in found:
        assert sorted(str(row.label) for row in rows) == ["bad", "bad", "good", "good"]
        assert not places & {row.where for row in rows}
    assert shots.choices(material, 4, 3, seed=1) == found
    assert shots.choices(material, 10_000, 3, seed=1) == []


def test_the_nearest_examples(place: Path) -> None:
    pool = [Example("f", i, text=text, label="good") for i, text in enumerate(("green tea", "film boring film", "x y"))]
    asked = [Example("g", i, text="the film is boring", label="bad") for i in range(3)]
    assert shots._nearest(pool, asked)[0] is pool[1]


def test_examples_of_answers_go_into_the_system_prompt(place: Path) -> None:
    material = material_of(**qa())
    found = shots.with_examples(material, Candidate("hand", {"system": "Answer."}), material.pool[:2])
    text = str(found.task["system"])
    assert text.startswith("Answer.\n\nQuestion: ")
    assert material.pool[0].messages[-1].content in text


# --------------------------------------------------------------------------------------------- proposals


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('1. "Film: {text} | Verdict: {label}"', "Film: {text} | Verdict: {label}"),
        ("Film: {review}\\nVerdict: {sentiment}", "Film: {review}\nVerdict: {sentiment}"),
        ("The film: {text}. It was {label}.\nmore", "The film: {text}. It was {label}"),
    ],
)
def test_what_a_model_writes(written: str, found: str, place: Path) -> None:
    assert proposals.usable(written, material_of()) == found


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "too short"),
        ("x" * 400, "too long"),
        ("A review: {text}, so what?", "no {label}"),
        ("The label is {label}, is it?", "no {text}"),
        ("{label} is what this is: {text}", "behind the label"),
        ("Look: {text.__class__} {label}", "unknown field"),
        ("Look: {text} [soft:4] {label}", "soft"),
        ("Look at this: {text}{label}", "directly beside"),
    ],
)
def test_what_cannot_be_used(written: str, reason: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        proposals.usable(written, material_of())


def test_proposals_are_counted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = material_of()
    texts = ["Film: {text} | Verdict: {label}", "nothing of use here", "review:  {text} | Sentiment: {label}", "no"]
    encode = material.base.tokenizer.encode
    monkeypatch.setattr(
        proposals, "generate", lambda model, asked, *_: [encode(text, add_special_tokens=False) for text in texts]
    )
    found, dropped = proposals.propose(material, [TEMPLATE], 4, 0)
    assert found == [("proposed", texts[0])]
    assert sum(dropped.values()) == 3
    assert dropped["known already"] == 1


def test_proposals_follow_from_the_seed(place: Path) -> None:
    material = material_of()
    asked = proposals._prompts(material, [TEMPLATE], 4)
    assert [origin for origin, _ in asked] == ["proposed", "paraphrase"] * 2
    assert proposals.propose(material, [TEMPLATE], 4, 3) == proposals.propose(material, [TEMPLATE], 4, 3)


# ------------------------------------------------------------------------------------------------ search


class Counted(Scorer):
    """Scores by the template's length; counts rows."""

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self.rows: dict[str, int] = {}

    def score(self, candidate: Candidate, rows: int) -> Score:
        name = str(candidate.task["template"])
        self.rows[name] = rows
        return Score(1 / len(name), 1.0, rows)


def test_bad_prompts_cost_little(place: Path) -> None:
    material = material_of(rows=40)
    search = prompts.Search(None, replace(material, rows=list(material.rows) * 7), LITTLE, {})
    search.scorer = counted = Counted(material)
    assert search.stages() == [32, 64, 128, 256, 280]
    made = [Candidate("proposed", {"template": "x" * n}) for n in range(1, 33)] + [one("y" * 100), one("z" * 200)]
    found = search.halve(made)
    assert [len(str(candidate.task["template"])) for candidate, _ in found] == [1, 2, 3, 4, 100]
    assert sorted(counted.rows.values()).count(32) == 17 - 1, "half of 34, less the best one written by hand"
    assert counted.rows["z" * 200] == 32


def test_search_from_beginning_to_end(place: Path) -> None:
    folder = prompts.find(config_of("data.test=test.jsonl"), LITTLE)
    record = json.loads((folder / "prompts.json").read_text())
    assert record["status"] == "completed"
    assert record["best"]["value"] >= record["hand"]["value"]
    assert record["test"]["rows"] == 20
    origins = {entry["origin"] for entry in record["candidates"].values()}
    assert origins >= {"hand", "calibrated", "words", "shots"}
    best = configuration.load(folder / "best.yaml", ["train.max_steps=0", "train.lr=1e-3"])
    metrics = train(best).manifest()
    assert metrics["metrics"]["accuracy"] == pytest.approx(record["best"]["value"])
    assert metrics["test_metrics"]["accuracy"] == pytest.approx(record["test"]["best"]["value"])
    assert prompts.summary(folder)["ladder"][1]["on"] == "test"
    with pytest.raises(ModelError, match="completed"):
        prompts.resume(folder)


def test_test_rows_change_nothing(place: Path) -> None:
    runs = [prompts.find(config_of(*more), LITTLE) for more in ([], ["data.test=test.jsonl"])]
    one, other = (json.loads((run / "prompts.json").read_text()) for run in runs)
    assert one["candidates"] == other["candidates"]
    assert one["best"] == other["best"]


def test_test_rows_that_the_search_has_seen_are_left_out(place: Path) -> None:
    material = material_of("data.test=test.jsonl")
    seen = [{"text": row.text, "label": row.label} for row in (material.rows[0], material.pool[0])]
    seen.append({**seen[0], "text": f"  {str(seen[0]['text']).upper()} "})
    new = labelled(20, seed=2)
    write(place / "test.jsonl", [*seen, *new])
    search = prompts.Search(None, material, LITTLE, {})
    found = search.on_test(one(), one(calibrate=True))
    assert (found["rows"], found["left_out"]) == (20, 3)
    write(place / "test.jsonl", new)
    assert search.on_test(one(), one(calibrate=True)) == {**found, "left_out": 0}
    write(place / "test.jsonl", seen)
    assert search.on_test(one(), one(calibrate=True)) is None


def test_an_interrupted_search_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads((prompts.find(config_of(), LITTLE) / "prompts.json").read_text())
    real, count = ClozeScorer.score, 0

    def stop(self: ClozeScorer, candidate: Candidate, rows: int) -> Score:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        return real(self, candidate, rows)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="tunery resume runs/broken"):
        patch.setattr(ClozeScorer, "score", stop)
        prompts.find(config_of("run.name=broken"), LITTLE)
    record = json.loads((place / "runs/broken/prompts.json").read_text())
    assert record["status"] == "interrupted"
    count = -1000
    with monkeypatch.context() as patch:
        patch.setattr(ClozeScorer, "score", stop)
        again = json.loads((prompts.resume("runs/broken") / "prompts.json").read_text())
    scored = sum(len(entry["scores"]) for entry in again["candidates"].values())
    assert count + 1000 == scored - sum(len(entry["scores"]) for entry in record["candidates"].values())
    for key, entry in whole["candidates"].items():
        for rows, score in entry["scores"].items():
            assert again["candidates"][key]["scores"][rows] == pytest.approx(score, abs=1e-5)
    assert again["best"]["key"] == whole["best"]["key"]


def test_no_prompt_of_use(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: ClozeScorer, candidate: Candidate, rows: int) -> Score:
        raise ConfigError("all wrong")

    monkeypatch.setattr(ClozeScorer, "score", refuse)
    with pytest.raises(ConfigError, match="none of 10 prompts can be used: all wrong"):
        prompts.find(config_of(), LITTLE)


def test_changed_data_are_refused(place: Path) -> None:
    folder = prompts.find(config_of(), LITTLE)
    record = json.loads((folder / "prompts.json").read_text())
    (folder / "prompts.json").write_text(json.dumps({**record, "status": "running"}))
    write(place / "train.jsonl", labelled(61))
    with pytest.raises(DataError, match="data changed"):
        prompts.resume(folder)


def test_system_prompts_are_searched(place: Path) -> None:
    config = config_of(model={"name": "model", "dtype": "float32"}, **qa())
    folder = prompts.find(config, replace(LITTLE, rows=12, given=("Hello, my name is Anna.",)))
    record = json.loads((folder / "prompts.json").read_text())
    assert record["metric"] == "loss"
    assert record["best"]["loss"] <= record["hand"]["loss"]
    origins = {entry["origin"] for entry in record["candidates"].values()}
    assert {"given", "hand", "shots"} <= origins
    assert [rung["rung"] for rung in record["ladder"]] == ["hand prompt", "searched prompt", "soft prompt", "lora"]
    assert configuration.load(folder / "best.yaml").task_name == "instruct"


# ------------------------------------------------------------------------------------------------ ladder


def record_of(hand: float, best: float) -> dict[str, Any]:
    told = {"interval": None, "loss": 1.0}
    return {"hand": {"value": hand, **told}, "best": {"value": best, **told}, "rows": 40}


def test_a_prompt_may_be_enough(place: Path) -> None:
    material = material_of()
    prompts.configuration_of(material, one(), place / "best.yaml")
    found = ladder.climb(place, material, record_of(0.5, 0.9), 0.8, True)
    assert [rung["reached"] for rung in found["ladder"]] == [False, True, None, None, None]
    assert "no training is needed" in found["verdict"]
    assert "best.yaml train.max_steps=0" in found["next"]


def test_the_next_rung_is_named(place: Path) -> None:
    material = material_of()
    prompts.configuration_of(material, one(), place / "best.yaml")
    found = ladder.climb(place, material, record_of(0.5, 0.6), 0.8, False)
    assert "no prompt alone" in found["verdict"]
    assert found["next"] == f"tunery train {place / 'cloze-few-rows.yaml'}"
    methods = []
    for name in ("cloze-few-rows", "soft-prompt", "lora"):
        config = configuration.load(place / f"{name}.yaml")
        methods.append(config.method_name)
        assert config.dump()["task"]["template"] == TEMPLATE
    assert methods == ["lora", "prompt", "lora"]
    assert len((place / "few.jsonl").read_text().splitlines()) == len(material.pool)


def test_rungs_are_trained_until_one_is_enough(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = material_of()
    prompts.configuration_of(material, one(), place / "best.yaml")
    scores = iter((0.7, 0.85))
    started: list[str] = []

    def start(config: configuration.Config, **_: Any) -> trial.Outcome:
        started.append(str(config.run.name))
        run = RunDir.create(Path(config.run.dir), str(config.run.name))
        run.update_manifest(status="completed", metrics={"accuracy": next(scores)}, rows={"validation": 40})
        return trial.Outcome("completed", run.path)

    monkeypatch.setattr(trial, "start", start)
    found = ladder.climb(place, material, record_of(0.5, 0.6), 0.8, True)
    assert started == ["cloze-few-rows", "soft-prompt"]
    assert [rung["value"] for rung in found["ladder"]] == [0.5, 0.6, 0.7, 0.85, None]
    assert "soft prompt does" in found["verdict"]
    started.clear()
    again = ladder.climb(place, material, record_of(0.5, 0.6), 0.8, True)
    assert (again["ladder"], started) == (found["ladder"], []), "what is trained is not trained again"


def test_a_rung_trains_on_rows_that_judge_nothing(place: Path) -> None:
    """The few rows by the names that the file has for columns and labels."""
    write(place / "train.jsonl", [{"Review": r["text"], "Mood": r["label"][0]} for r in labelled(60)])
    data = {"train": "train.jsonl", "columns": {"text": "Review", "label": "Mood"}, "labels": {"g": "good", "b": "bad"}}
    material = material_of(data=data, rows=20)
    prompts.configuration_of(material, one(), place / "best.yaml")
    ladder.climb(place, material, record_of(0.5, 0.6), None, False)
    run = train(configuration.load(place / "cloze-few-rows.yaml", ["train.max_steps=2", "train.lr=1e-3"]))
    manifest = run.manifest()
    assert manifest["rows"] == {"train": len(material.pool), "validation": 20}
    whole = train(configuration.load(place / "lora.yaml", ["train.max_steps=2", "train.lr=1e-3"])).manifest()
    assert whole["rows"] == {"train": 40, "validation": 20}


# ----------------------------------------------------------------------------------------- the command line


def test_the_verb(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine.txt").write_text("# mine\nFilm: {text}\\nMood: {label}\n", encoding="utf-8")
    few = ["--rows", "20", "--proposals", "2", "--words", "1", "--shots", "2", "--draws", "1"]
    more = ["data.train=train.jsonl", "model=model", "model.dtype=float32", "task=classify", "--templates", "mine.txt"]
    answer = verbs.call(capsys, "prompts", *more, *few, "--target", "0.01", "--json")
    assert answer.code == 0, answer.err
    assert answer.value["verdict"].startswith("a prompt alone reaches")
    record = json.loads((Path(answer.value["run"]) / "prompts.json").read_text())
    assert "Film: {text}\nMood: {label}" in {entry["task"]["template"] for entry in record["candidates"].values()}
    printed = verbs.call(capsys, "prompts", *more, *few)
    for words in ("prompts tried", "the ladder:", "searched prompt", "next: tunery train"):
        assert words in printed.out


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["task=regress"], "no prompt to search"),
        (["data.folds=3"], "one split"),
        (["--metric", "accurcy"], "did you mean 'accuracy'"),
        (["--metric", "rougeL"], "does not fit"),
        (["--templates", "none.txt"], "cannot be read"),
        (["--templates", "bad.txt"], "unknown field {lable}"),
        (["--templates", "soft.txt"], "[soft:n]"),
        (["--templates", "empty.yaml"], "no list of prompts"),
        (["--templates", "broken.yaml"], "cannot be read as YAML"),
        (["--rows", "0"], "0 is not in the range"),
    ],
)
def test_mistakes(more: list[str], problem: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.txt").write_text("Text: {text} is {lable}\n")
    (place / "soft.txt").write_text("Text: {text} [soft:3] is {label}\n")
    (place / "empty.yaml").write_text("prompts: []\n")
    (place / "broken.yaml").write_text("- {text} is {label}\n  - x: [\n")
    base = ["data.train=train.jsonl", "model=model", "model.dtype=float32"]
    answer = verbs.call(capsys, "prompts", *base, *more, "--json")
    assert answer.code in (2, 3), answer.err
    assert problem in str(answer.error["problem"]) + str(answer.error["hint"])
    assert not (place / "runs").exists()


def test_prompts_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('prompts:\n  - "Text: {text} {label}"\n')
    assert candidates.read(tmp_path / "a.yaml") == ["Text: {text} {label}"]
    (tmp_path / "a.json").write_text('["a", "b"]')
    assert candidates.read(tmp_path / "a.json") == ["a", "b"]


def test_templates_by_hand_fit_the_data() -> None:
    assert "Review: {text} | Sentiment: {label}" in candidates.templates(["positive", "negative"], False, False)
    assert all("{text_pair}" in text for text in candidates.templates(["yes", "no"], True, False))
    assert any("评论" in text for text in candidates.templates(["正面", "负面"], False, True))
    for pair in (False, True):
        for chinese in (False, True):
            for text in candidates.templates(["positive", "negative"], pair, chinese):
                cloze.parse(text)


def test_equal_prompts_have_one_key() -> None:
    same: Sequence[Candidate] = [one(), one(system=None), Candidate("given", dict(one().task))]
    assert len({candidate.key for candidate in same}) == 1
    assert one(calibrate=True).key != one().key
    assert [c.origin for c in candidates.distinct(same)] == ["hand"]


def test_answer_scorer_is_chosen(place: Path) -> None:
    assert isinstance(scorer(material_of(**qa())), AnswerScorer)
