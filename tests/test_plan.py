"""tunery plan: the arithmetic of predictions, the rules, the guard of memory, and runs that know what was predicted."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from small import labelled, one_thread, questions, train, write  # noqa: F401
from tunery import config, registry, rundir
from tunery.cli._text import read_config
from tunery.config import Config, TrainConfig
from tunery.data.batch import Batching
from tunery.decide import memory, rules, watched
from tunery.decide.plan import Wishes, plan
from tunery.protocols import Encoded
from tunery.run import cost, work
from verbs import call


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Candidates and runs get as many threads: what is measured with others says nothing."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def settings(model: Path, data: Path, folder: Path, *more: str) -> Config:
    keys = ["train.max_steps=6", "eval.every=3", "eval.max_new_tokens=4", f"run.dir={folder / 'runs'}"]
    return config.load(None, [f"data.train={data}", f"model={model}", "model.dtype=float32", *keys, *more])


# ------------------------------------------------------------------------------------------------ arithmetic


def test_what_is_linear_is_predicted_exactly() -> None:
    pick = np.random.default_rng(0)
    true = np.array([0.1, 0.002, 0.0, 1e-6, 0.05])
    points = cost.Points()
    for _ in range(8):
        each = pick.uniform(1, 100, 5)
        points.add(each, float(true @ each))
    total = pick.uniform(1e3, 1e4, 5)
    found = points.total(total)
    assert found.value == pytest.approx(true @ total, rel=1e-6)
    assert found.high - found.low < 1e-3 * found.value


def test_noise_widens_the_interval_and_stays_inside_it() -> None:
    pick = np.random.default_rng(1)
    inside, widths = 0, []
    for noise in [0.02] * 20 + [0.2] * 20:
        points = cost.Points()
        for tokens in (100, 200, 300, 400, 500, 600, 700, 800):
            points.add([1, tokens], (0.1 + 0.001 * tokens) * float(pick.normal(1, noise)))
        found = points.total(np.array([50.0, 20_000.0]))
        inside += found.low <= 25.0 <= found.high
        widths.append(found.high - found.low)
        assert 0 <= found.low <= found.value <= found.high
    assert inside >= 34
    assert np.mean(widths[20:]) > 4 * np.mean(widths[:20])


def test_work_of_a_training_is_that_of_its_steps() -> None:
    rows = [Encoded([1] * n, target=0) for n in (5, 3, 9, 2, 7, 7, 1, 4)]
    settings = TrainConfig(batch_size=2, accumulate=2, epochs=2, micro_tokens=12, lr=1.0)
    found = work.training_work(rows, settings)
    assert (found.steps, found.per_epoch, found.longest) == (4, 2, 9)
    sizes = [len(row.ids) for row in rows]
    tokens = 0
    batching = Batching(settings)
    for numbers in batching.plan(sizes, 4, 0):
        for made in work.passes_of(numbers, sizes, [1] * 8, batching):
            tokens += made[1]
            assert made[1] <= 12
    assert found.step[1] == 2 * tokens
    assert (found.step[2], found.step[4]) == (16, 4)
    assert found.largest[0] <= 12


def test_answers_are_computed_until_the_last_has_ended() -> None:
    made = work.answers_work([3, 5], [2, 0], most=8)
    # three passes: both rows, then the first alone, which says its end in the third
    assert made.tolist() == [10, 3, 2 + 1 + 1, 2 * 5 + 6 + 7]
    assert work.answers_work([5], [99], most=4)[1] == 4
    one = work.Answers([3, 5], [2, 0], rows=20).work([2, 0], 2, 8)
    assert one.tolist() == (10 * made).tolist()


def test_sizes_not_met_add_to_memory() -> None:
    empty = cost.Points()
    measured = cost.Measured(1, 0, empty, empty, empty, 0.5, 0, 0, empty, 1, [], (100, 8), 10, 1000, 5.0)
    shape = work.Shape(np.zeros(5), 0, 1, 1, None, True, {}, np.zeros(4), {}, (104, 8), 30)
    found = measured.memory(shape)
    assert found == (1100, 1000, 1200)
    shape.largest = (200, 8)
    assert measured.memory(shape) is None
    assert cost.Measured.from_json(measured.to_json()) == measured


# ----------------------------------------------------------------------------------------------------- rules


def facts(**changes: Any) -> rules.Facts:
    usual = {"family": "encoder", "parameters": 22_000_000, "task": "classify", "writes": False, "rows": 1000}
    usual |= {"classes": 2, "unknown": 0.0, "pieces": 0.3, "quantised": False, "full_fits": True}
    return rules.Facts(**{**usual, **changes})


CASES = {
    "start": {},
    "small base": {},
    "large base": {"parameters": 7_000_000_000},
    "huge base": {"parameters": 7_000_000_000},
    "quantised base": {"quantised": True},
    "memory": {"full_fits": False},
    "few rows": {"rows": 60},
    "few rows to classify": {"rows": 60},
    "many rows": {"rows": 10_000},
    "label or number": {},
    "new knowledge": {"family": "decoder", "task": "instruct", "writes": True, "classes": 0},
    "many variants": {"variants": True},
    "latency": {"latency": True},
    "foreign language": {"unknown": 0.6},
}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_case_and_known_methods(rule: rules.Rule) -> None:
    assert rule.applies(facts(**CASES[rule.name]))
    assert set(rule.points) <= set(registry.names("method"))
    assert rule.why and rule.when


def test_rules_decide() -> None:
    names = registry.names("method")

    def first(**changes: Any) -> str:
        return rules.rank(facts(**changes), names)[0].method

    assert first() in ("full", "lora")
    assert first(quantised=True) == first(variants=True) == "lora"
    assert first(full_fits=False) == "lora"
    order = [each.method for each in rules.rank(facts(quantised=True), names)]
    assert set(order[-2:]) == {"freeze", "full"}
    assert facts(pieces=1.7).foreign and not facts(pieces=0.7).foreign
    last = [each.method for each in rules.rank(facts(unknown=0.6), names)][-2:]
    assert set(last) == {"prompt", "p_tuning"}


@pytest.mark.parametrize("method", registry.names("method"))
@pytest.mark.parametrize("rows", [8, 100, 1_000_000])
def test_settings_to_start_from(method: str, rows: int) -> None:
    found = rules.suggested(method, "encoder", rows)
    assert 4 <= found["batch_size"] <= 32 and 1 <= found["epochs"] <= 20
    assert config.load(None, [f"train.{key}={value}" for key, value in found.items()])


# ---------------------------------------------------------------------------------------------------- memory

NEEDS = memory.Needs(7_000_000_000, 7_000_000_000, 32, 4096, 32_000, 8192, 4096, 512, 2)


def test_what_does_not_fit_is_changed_until_it_does() -> None:
    assert NEEDS.estimate > 100e9
    assert memory.changes(NEEDS, 10**15, "full") == []
    some = memory.changes(NEEDS, 40_000_000_000, "full")
    assert some[0] == "method=lora" and some[1].startswith("train.micro_tokens=")
    assert "model.quantise=nf4" not in some
    assert "model.quantise=nf4" in memory.changes(NEEDS, 14_000_000_000, "lora")
    assert "smaller" in memory.changes(NEEDS, 1_000_000_000, "lora")[-1]


def test_a_candidate_that_takes_too_much_is_killed(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", labelled(30))
    outcome = watched.run(settings(tiny_bert, data, tmp_path), {}, limit=100_000_000)
    assert outcome.status == "too large" and "0.10 GB" in outcome.problem


# ------------------------------------------------------------------------------------------------- the whole


@pytest.mark.usefixtures("one_cpu", "one_thread")
def test_a_plan_and_the_run_that_it_predicts(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", labelled(40))
    given = settings(tiny_bert, data, tmp_path, "task=classify")
    before = sorted(tmp_path.rglob("*"))
    found = plan(given, Wishes(methods=("lora",)))
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".lock" and "cache" not in str(path)] == [
        path for path in before if "cache" not in str(path)
    ]
    (candidate,) = found["candidates"]
    assert (candidate["status"], found["recommended"], candidate["steps"]) == ("measured", "lora", 6)
    for span in candidate["seconds_per_step"].values():
        assert 0 < span["low"] <= span["value"] <= span["high"]
    predicted = candidate["predicted"]
    assert math.isclose(sum(predicted["parts"].values()), predicted["seconds"], abs_tol=0.1)
    assert predicted["seconds_interval"][0] <= predicted["seconds"] <= predicted["seconds_interval"][1]

    run = train(tmp_path / "runs", tiny_bert, data, method="lora", task="classify", train__max_steps=6,
                eval__every=3, eval__generate_rows=50)  # fmt: skip
    manifest = run.manifest
    assert manifest["predicted"] == predicted
    assert set(manifest["prediction_error"]) == {"seconds", "peak_memory_bytes"}
    assert manifest["prediction_error"]["seconds"] == pytest.approx(
        predicted["seconds"] / manifest["wall_seconds"] - 1, rel=0.02, abs=0.01
    )
    assert candidate["trainable_parameters"] == manifest["parameters"]["trainable"]
    assert candidate["adapter_bytes"] == manifest["adapter_bytes"]
    assert "the prediction was off by: time" in (run.path / "log.txt").read_text(encoding="utf-8")

    longer = train(tmp_path / "runs", tiny_bert, data, method="lora", task="classify", train__epochs=9).manifest
    assert longer["predicted"]["parts"]["steps"] > 2 * predicted["parts"]["steps"]
    other = train(tmp_path / "runs", tiny_bert, data, method={"name": "lora", "r": 4}, task="classify",
                  train__max_steps=2).manifest  # fmt: skip
    assert "predicted" not in other and other["adapter_bytes"] < manifest["adapter_bytes"]


@pytest.mark.usefixtures("one_cpu", "one_thread")
def test_what_a_method_refuses_is_listed(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", questions(30))
    keys = [f"data.train={data}", f"model={tiny_llama}", "train.max_steps=4", "eval.max_new_tokens=4"]
    answer = call(capsys, "plan", *keys, "--methods", "bitfit,prompt", "--json", "--out", tmp_path / "plan.json")
    found = answer.value
    states = {each["method"]: each for each in found["candidates"]}
    assert states["bitfit"]["status"] == "refused" and "method.norms=true" in states["bitfit"]["problem"]
    assert states["prompt"]["predicted"]["parts"]["final scores"] > 0
    assert found["recommended"] == "prompt" and "method=prompt" in found["command"]
    assert rundir.read_json(tmp_path / "plan.json")["candidates"] == found["candidates"]


def test_the_verb_shows_rules_and_what_does_not_fit(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", labelled(30))
    keys = [f"data.train={data}", f"model={tiny_bert}", "task=classify"]
    shown = call(capsys, "plan", *keys, "--no-measure")
    assert shown.code == 0 and all(rule.name in shown.out for rule in rules.RULES)
    assert "not measured, with their points: " in shown.out
    shown = call(capsys, "plan", *keys, "--memory", "500MB", "--methods", "full")
    assert "full: too large: it needs about" in shown.out and "→ change" in shown.out
    assert "recommended" not in shown.out
    for wrong in (["--memory", "much"], ["--methods", "lorra"]):
        assert call(capsys, "plan", *keys, *wrong).code == 2


@pytest.fixture
def recommended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The arguments of the training that the verb writes down where a method is recommended."""

    def ask(method: str, *arguments: str) -> list[str]:
        best = {"method": method, "suggested": {"lr": 2e-4, "epochs": 3, "batch_size": 16, "seconds": 9.0}}
        monkeypatch.setattr("tunery.decide.plan.plan", lambda *_: {"candidates": [best], "recommended": method})
        said = shlex.split(call(capsys, "plan", *arguments, "--json").value["command"])
        assert said[:2] == ["tunery", "train"]
        assert read_config(said[2:]).method_name == method, "a command that works"
        return said[2:]

    return ask


def test_the_command_has_no_settings_of_another_method(recommended: Callable[..., list[str]]) -> None:
    given = ["data.train=a.jsonl", "method=lora", "method.r=4", "train.lr=1"]
    suggested = ["train.lr=0.0002", "train.epochs=3", "train.batch_size=16"]
    assert recommended("lora", *given) == [*given[:3], *suggested]
    whole = ["data.train=a.jsonl", "method={name: lora, r: 4}"]
    assert recommended("lora", *whole) == [*whole, *suggested]
    assert recommended("lora", "data.train=a.jsonl") == ["data.train=a.jsonl", "method=lora", *suggested]
    assert recommended("full", *given) == ["data.train=a.jsonl", "method=full", *suggested]


def test_the_command_undoes_steps_and_passes_that_the_configuration_sets(
    recommended: Callable[..., list[str]], tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: {train: a.jsonl}\ntrain: {max_steps: 5, accumulate: 4}\n", encoding="utf-8")
    for given in ([str(file)], ["data.train=a.jsonl", "train.max_steps=5", "train.accumulate=4"]):
        said = recommended("lora", *given)
        assert said.count("train.max_steps=null") == said.count("train.accumulate=1") == 1
        found = read_config(said).train
        assert (found.max_steps, found.accumulate, found.epochs) == (None, 1, 3)
    said = recommended("lora", "data.train=a.jsonl")
    assert not any("max_steps" in argument or "accumulate" in argument for argument in said)


@pytest.mark.usefixtures("one_thread")
def test_the_language_of_the_rows_is_looked_at(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": f"酒店很干净，服务态度{'好' if i % 2 else '差'}{i}", "label": i % 2} for i in range(30)]
    data = write(tmp_path / "rows.jsonl", rows)
    found = plan(settings(tiny_bert, data, tmp_path, "task=classify"), Wishes(measure=False))
    assert {r["rule"] for r in found["rules"] if r["applies"]} >= {"foreign language", "few rows to classify"}
