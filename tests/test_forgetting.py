"""Forgetting, the scale that keeps it under a bound, and overfitting: found where they were planted."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from small import labelled, log, one_thread, questions, train, translations, write  # noqa: F401
from test_methods import logits_of
from test_resume import check_equal, run_of, stopping_at
from tunery import config, registry
from tunery.cli import _text
from tunery.cli.train import finished
from tunery.data import general
from tunery.errors import ConfigError, DataError
from tunery.models import cache, heads, weights
from tunery.run import forgetting, overfitting
from tunery.run import train as training
from tunery.run.run import Run
from tunery.run.scaling import FINEST, Point, Search

STEPS: dict[str, Any] = {
    "train__max_steps": 30, "train__lr": 3e-2, "train__batch_size": 4, "train__keep": "last", "train__patience": None,
    "eval__every": 10, "eval__baselines": False, "eval__generate_rows": 0,
}  # fmt: skip
RATES = {"full": 3e-3, "freeze": 3e-3, "prefix": 1e-1, "adapter": 1e-2, "ia3": 1e-1}
SCALED = [name for name in registry.names("method") if name not in ("prompt", "p_tuning")]


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows some sentences by heart, those of ``known.txt`` beside it: it can forget them."""
    folder = tmp_path_factory.mktemp("knowing")
    pick = random.Random(0)
    sentences = [text for text in tiny.TEXTS if text.isascii()]
    text = "\n".join(pick.choice(sentences) for _ in range(60))
    (folder / "known.txt").write_text(text, encoding="utf-8")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    for _ in range(60):
        rows = torch.stack([ids[at : at + 64] for at in torch.randint(0, len(ids) - 64, (8,))])
        model(rows, labels=rows).loss.backward()
        adam.step()
        adam.zero_grad()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows") / "rows.jsonl", questions(24, longest=6))


def narrow_on(base: Path, **changes: Any) -> dict[str, Any]:
    """Settings that train far too long on a few rows; general is what that base knew."""
    return {**STEPS, "eval__general_text": str(base.parent / "known.txt"), **changes}


@pytest.fixture(scope="module")
def narrow(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("runs"), base, data, **narrow_on(base))


# ----------------------------------------------------------------------------------------- general text


def test_general_text_is_there_in_both_languages() -> None:
    texts = general.texts(general.BUILT_IN)
    assert set(texts) == {"en", "zh"}
    assert len(texts["en"].split()) > 1200
    assert sum("\u4e00" <= character <= "\u9fff" for character in texts["zh"]) > 1200


def test_every_question_has_one_right_option() -> None:
    found = general.questions()
    assert 20 <= len(found) <= 30
    assert {question.language for question in found} == {"en", "zh"}
    for question in found:
        assert len(set(question.options)) == len(question.options) >= 3, question


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), (b"a few words", "too little"), (bytes(range(256)) * 8, "not a text")],
)
def test_a_file_that_is_no_general_text(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as error:
        general.texts(str(path))
    assert str(path) in str(error.value)


def test_losses_by_row_add_up_to_the_loss(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    labels = torch.tensor([[5, 6, 7, 8, -100], [9, -100, 11, 12, 13]])
    batch = {"input_ids": labels.clamp(min=0), "attention_mask": torch.ones_like(labels), "labels": labels}
    by_row = heads.row_losses(model, batch)
    assert by_row.shape == (2,)
    torch.testing.assert_close(by_row.sum(), heads.next_token_loss(model, batch)[0])
    alone = {name: tensor[:1] for name, tensor in batch.items()}
    torch.testing.assert_close(by_row[:1], heads.row_losses(model, alone))


# -------------------------------------------------------------------------------------------- forgetting


def test_a_narrow_run_shows_forgetting(narrow: Run, base: Path) -> None:
    found = narrow.manifest["forgetting"]
    assert found["text"] == str(base.parent / "known.txt")
    assert found["relative"] == pytest.approx(found["after"] / found["before"] - 1)
    assert found["relative"] > 1
    probes = found["probes"]
    assert probes["questions"] == len(general.questions())
    assert probes["after"] == probes["before"] - len(probes["lost"]) + len(probes["gained"])
    assert sum(part["questions"] for part in probes["by_language"].values()) == probes["questions"]


def test_the_loss_before_is_that_of_plain_transformers(narrow: Run, base: Path) -> None:
    tokenizer = narrow.tuned.tokenizer
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    text = (base.parent / "known.txt").read_text(encoding="utf-8")
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, forgetting.WINDOW - 1):
        part = torch.tensor([ids[start : start + forgetting.WINDOW]])
        with torch.inference_mode():
            total += float(model(part, labels=part).loss) * (part.shape[1] - 1)
        count += part.shape[1] - 1
    assert narrow.manifest["forgetting"]["before"] == pytest.approx(total / count, rel=1e-4)
    assert narrow.manifest["forgetting"]["tokens"] == count


def test_an_untrained_adapter_forgets_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(tmp_path, base, data, train__max_steps=0, eval__baselines=False)
    assert run.manifest["forgetting"]["relative"] == pytest.approx(0, abs=1e-5)
    assert not run.manifest["forgetting"]["probes"]["lost"]
    assert set(run.manifest["forgetting"]["by_text"]) == {"en", "zh"}


def test_a_soft_prompt_stands_before_the_general_text(base: Path, data: Path, tmp_path: Path) -> None:
    run = train(tmp_path, base, data, **narrow_on(base, train__max_steps=4, method="prompt", train__lr=1.0))
    assert abs(run.manifest["forgetting"]["relative"]) > 1e-3, "without the soft tokens it would be the base"


def test_the_base_is_measured_once(
    narrow: Run, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    measure = forgetting.measure

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return measure(*arguments, **named)

    monkeypatch.setattr(forgetting, "measure", counting)
    one, other = (
        train(tmp_path, base, data, train__max_steps=1, eval__baselines=False, run__name=name) for name in "ab"
    )
    assert len(calls) == 3, "the second run finds the base's numbers in the cache"
    assert one.manifest["forgetting"]["before"] == other.manifest["forgetting"]["before"]
    kept = next((cache.root() / "general").glob("*.json"))
    kept.write_text("{broken", encoding="utf-8")
    train(tmp_path, base, data, train__max_steps=1, eval__baselines=False)
    assert len(calls) == 5, "a damaged cache is measured anew"


def test_the_user_names_another_text(base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("The parcel arrives on Monday, and the film is good. " * 20, encoding="utf-8")
    run = train(tmp_path / "runs", base, data, train__max_steps=1, eval__general_text="mine.txt")
    found = run.manifest["forgetting"]
    assert set(found["by_text"]) == {"text"}
    assert run.config.eval.general_text == str(tmp_path / "mine.txt"), "resuming works from any folder"
    assert "mine.txt" in str(_text.forgetting(found))
    off = train(tmp_path / "runs", base, data, train__max_steps=1, eval__general_text=None)
    assert off.manifest["forgetting"] is None
    with pytest.raises(DataError, match="no such file"):
        train(tmp_path / "none", base, data, train__max_steps=1, eval__general_text="missing.txt")
    assert not (tmp_path / "none").exists(), "it is looked at before there is a run"


def test_other_tasks_measure_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", labelled(20))
    run = train(tmp_path, tiny_bert, file, train__max_steps=2)
    assert run.manifest["forgetting"] is None
    assert run.manifest["overfitting"] is not None


def test_an_encoder_decoder_measures_nothing(tiny_t5: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", translations(12))
    run = train(tmp_path, tiny_t5, file, train__max_steps=1, task="seq2seq")
    assert run.manifest["forgetting"] is None


def test_train_and_eval_say_it(narrow: Run, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tunery.cli import eval as cli_eval
    from tunery.cli import train as cli_train

    cli_train.show(narrow.summary())
    result = narrow.evaluate(data, metrics=["loss"])
    assert result["forgetting"] == narrow.manifest["forgetting"]
    cli_eval.show(result)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("general text (")]
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "general questions right" in lines[0]


# ------------------------------------------------------------------------------------- search for a scale


def searched(
    quality: Callable[[float], float], forgotten: Callable[[float], float], bound: float
) -> tuple[Point | None, Search]:
    def at(scale: float) -> Point:
        return Point(scale, quality(scale), 3 * (1 + forgotten(scale)), forgotten(scale))

    search = Search(at, bound)
    return search.run(at(0.0), at(1.0)), search


def best_of_grid(quality: Callable[[float], float], forgotten: Callable[[float], float], bound: float) -> float:
    """Loss of the best of eleven scales under the bound; 0 is always allowed."""
    scales = [i / 10 for i in range(11)]
    return min(quality(scale) for scale in scales if scale == 0 or forgotten(scale) <= bound)


@pytest.mark.parametrize("seed", range(200))
def test_as_good_as_a_grid_of_eleven(seed: int) -> None:
    """Curves with one optimum anywhere and forgetting that grows, evenly or late, to anything."""
    pick = random.Random(seed)
    optimum, sharp, power, top = pick.uniform(-0.1, 1.4), pick.uniform(1, 4), pick.uniform(0.5, 4), pick.uniform(0, 0.3)

    def quality(scale: float) -> float:
        return 1 + abs(scale - optimum) ** sharp

    def forgotten(scale: float) -> float:
        return top * scale**power

    best, search = searched(quality, forgotten, 0.02)
    grid = best_of_grid(quality, forgotten, 0.02)
    assert len(search.points) - 2 <= 10
    if best is None:
        assert grid == quality(0)
    else:
        assert best.quality <= grid
        assert best.forgetting <= 0.02


@pytest.mark.parametrize("seed", range(40))
def test_curves_that_contradict_themselves_get_the_whole_grid(seed: int) -> None:
    pick = random.Random(seed)
    values = [pick.random() for _ in range(FINEST + 1)]
    rises = [pick.uniform(0, 0.04) for _ in range(FINEST + 1)]

    def quality(scale: float) -> float:
        return values[round(scale * FINEST)]

    def forgotten(scale: float) -> float:
        return rises[round(scale * FINEST)]

    best, search = searched(quality, forgotten, 0.02)
    every = set(range(0, FINEST + 1, 4)) <= set(search.points)
    found = best.quality if best else values[0]
    assert found <= best_of_grid(quality, forgotten, 0.02) or not every
    search.points = {number: point for number, point in search.points.items() if number % 4 == 0}
    assert every or search._one_peak()


def test_none_where_every_scale_forgets_too_much() -> None:
    best, search = searched(lambda s: 1 - s / 2, lambda s: 0.5 * bool(s), 0.02)
    assert best is None
    assert min(search.points) == 0
    assert 0 < search.points[1].scale < 0.1, "smaller scales than a grid has were looked at"


def test_none_where_nothing_was_learnt() -> None:
    assert searched(lambda s: 1 + s, lambda s: 0.0, 0.02)[0] is None


# ------------------------------------------------------------------------------------- scale in a run


@pytest.mark.parametrize("method", SCALED)
def test_the_scale_is_in_the_saved_weights(method: str, base: Path, data: Path, tmp_path: Path) -> None:
    settings = narrow_on(base, method=method, train__lr=RATES.get(method, 3e-2))
    settings |= {"method__norms": True} if method == "bitfit" else {}
    free = train(tmp_path, base, data, **settings)
    bound = 0.3
    assert free.manifest["forgetting"]["relative"] > bound
    run = train(tmp_path, base, data, **settings, train__max_forgetting=bound)
    found, curve = run.manifest["forgetting"], json.loads((run.path / "forgetting.json").read_text(encoding="utf-8"))
    assert found["unscaled"] == pytest.approx(free.manifest["forgetting"]["relative"], abs=1e-6)
    assert curve["bound"] == found["bound"] == pytest.approx(bound)
    scales = [point["scale"] for point in curve["curve"]]
    assert scales == sorted(scales)
    assert (scales[0], scales[-1]) == (0, 1)
    assert found["scale"] == curve["scale"]
    assert found["scale"] is not None
    assert 0 < found["scale"] < 1
    chosen = next(point for point in curve["curve"] if point["scale"] == found["scale"])
    assert found["relative"] == pytest.approx(chosen["forgetting"], abs=1e-6)
    assert found["relative"] <= bound
    allowed = [point["quality"] for point in curve["curve"] if point["forgetting"] <= bound]
    assert chosen["quality"] == min(allowed) < curve["curve"][0]["quality"]
    assert run.metrics["loss"] == pytest.approx(chosen["quality"], rel=1e-5)
    again = Run(run.path).evaluate(run.config.data.train, metrics=["loss"])
    assert again["metrics"]["loss"] != pytest.approx(free.evaluate(data, metrics=["loss"])["metrics"]["loss"], rel=1e-4)
    loaded = forgetting.measure(_rows(run), run.tuned.model, 0)
    assert loaded.loss == pytest.approx(found["after"], rel=1e-5), "what is loaded is what was measured"


def _rows(run: Run) -> forgetting.General:
    from tunery.run.prepare import prepare

    rows = prepare(run.config).general
    assert rows is not None
    return rows


@pytest.mark.parametrize("changes", [{"eval__base": False}, {"method__dora": True}, {"method__init": "pissa"}])
def test_plain_peft_loads_the_scaled_adapter(changes: dict[str, Any], base: Path, data: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    run = train(tmp_path, base, data, **narrow_on(base, train__max_forgetting="30%", **changes))
    assert 0 < run.manifest["forgetting"]["scale"] < 1
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.config.pad_token_id = run.tuned.tokenizer.pad_token_id
    theirs = logits_of(PeftModel.from_pretrained(plain, run.path / "model"))
    torch.testing.assert_close(logits_of(run.tuned.model), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "adapter", "bitfit"])
def test_scale_zero_is_the_base_and_one_what_was_trained(method: str, base: Path) -> None:
    from test_peft_methods import base_of, method_of

    model, head = base_of(base, "causal_lm")
    bare = logits_of(model)
    settings: dict[str, Any] = {"norms": True} if method == "bitfit" else {}
    one = method_of(method, **settings)
    one.attach(model, head)
    begun = {name: p.detach().clone() for name, p in weights.trainable(model).items()}
    with torch.no_grad():
        for parameter in weights.trainable(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    learnt = {name: p.detach().clone() for name, p in weights.trainable(model).items()}
    full = logits_of(model)
    weights.blend(model, begun, learnt, 0.0, one.scaled())
    torch.testing.assert_close(logits_of(model), bare, rtol=1e-5, atol=1e-5)
    weights.blend(model, begun, learnt, 1.0, one.scaled())
    assert torch.equal(logits_of(model), full)


def test_a_bound_that_nothing_keeps(base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels that have nothing to do with validation: every scale is worse than the base, which the run says."""
    other = write(tmp_path / "other.jsonl", [{"question": f"{i}?", "answer": "您可以在三十天内退货"} for i in range(8)])
    settings = narrow_on(base, data__validation=str(data), train__lr=0.3)
    free = train(tmp_path, base, other, **settings)
    run = train(tmp_path, base, other, **settings, train__max_forgetting=1e-6)
    found = run.manifest["forgetting"]
    assert found["scale"] is None
    assert found["relative"] == found["unscaled"] == free.manifest["forgetting"]["relative"], "as it was trained"
    summary = finished(run.summary())
    assert summary["exit_code"] == 4
    assert "none was found" in str(_text.forgetting(found))
    assert "no scale" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert "exit_code" not in finished(free.summary())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "prompt"}, "prompt has no scale"),
        ({"method": "p_tuning"}, "p_tuning has no scale"),
        ({"eval__general_text": None}, "without general text"),
        ({"train__max_forgetting": 2}, "would be 200%"),
        ({"train__max_forgetting": "two"}, "a number or null is needed"),
        ({"train__max_forgetting": -0.1}, "greater than or equal to 0"),
    ],
)
def test_bounds_without_meaning(
    changes: dict[str, Any], problem: str, base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        train(tmp_path / "runs", base, data, **{"train__max_forgetting": 0.02, **changes})
    assert not (tmp_path / "runs").exists()


def test_a_bound_for_a_classifier_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", labelled(20))
    with pytest.raises(ConfigError, match="task classify"):
        train(tmp_path / "runs", tiny_bert, file, train__max_forgetting=0.02)


@pytest.mark.parametrize(
    ("given", "value"), [("2%", 0.02), (0.02, 0.02), (" 0.5 % ", 0.005), ("100%", 1), (None, None)]
)
def test_a_share_or_a_percentage(given: Any, value: float | None) -> None:
    found = config.load(None, [], {"train": {"max_forgetting": given}}).train.max_forgetting
    assert found == (value if value is None else pytest.approx(value))


# ------------------------------------------------------------------------------------------- resuming


def test_a_run_with_a_bound_resumes_exactly(base: Path, data: Path, tmp_path: Path) -> None:
    changes = {"method": "lora", "train__max_steps": 8, "eval__every": 3, "train__max_forgetting": "2%"}
    whole = run_of(tmp_path / "whole", changes, base, data)
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(5, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, base, data)
    run = Run(training.resume(tmp_path / "cut/cut").path)
    check_equal(run, whole)
    for key in ("forgetting", "overfitting", "base_losses", "base_general"):
        assert run.manifest[key] == whole.manifest[key], key


def test_measuring_does_not_change_training(base: Path, data: Path, tmp_path: Path) -> None:
    changes = {"train__max_steps": 6, "train__dropout": 0.2}
    with_it = run_of(tmp_path / "with", changes, base, data)
    without = run_of(tmp_path / "without", changes | {"eval__general_text": None}, base, data)
    assert with_it.manifest["forgetting"] and without.manifest["forgetting"] is None
    check_equal(with_it, without)


# ----------------------------------------------------------------------------------------- overfitting


def points(*pairs: tuple[float, float]) -> list[overfitting.At]:
    return [overfitting.At(10 * i, *pair) for i, pair in enumerate(pairs)]


def test_the_step_from_which_the_gap_grew() -> None:
    found = overfitting.summarise(points((2.0, 2.1), (1.0, 1.12), (0.5, 0.9), (0.1, 1.3)), 20)
    assert found["gap"] == pytest.approx(1.2)
    assert found["since_step"] == 10
    assert (found["lowest_at_step"], found["kept_step"]) == (20, 20)
    line = str(_text.overfitting(found))
    assert line.startswith("overfitting: ")
    assert "from step 10 on" in line
    assert "keeps the weights of step 20" in line


def test_rows_that_differ_from_the_beginning_are_no_overfitting() -> None:
    found = overfitting.summarise(points((2.0, 2.5), (1.5, 2.0), (1.0, 1.5)), 20)
    assert found["gap"] == pytest.approx(0.5)
    assert found["since_step"] is None
    assert _text.overfitting(found) is None


def test_a_gap_that_grows_while_validation_still_gains_is_said_to_be_that() -> None:
    found = overfitting.summarise(points((2.0, 2.0), (1.0, 1.5), (0.2, 1.4)), 20)
    assert found["since_step"] == 0
    assert "still fell" in str(_text.overfitting(found))
    assert not str(_text.overfitting(found)).startswith("overfitting")


def test_a_run_on_noise_overfits_from_the_step_that_the_log_shows(base: Path, tmp_path: Path) -> None:
    """Answers that have nothing to do with the questions: what is learnt of them helps no other row."""
    pick = random.Random(0)
    rows = [{"question": f"{i}?", "answer": " ".join(pick.choices("abcdefghij", k=8))} for i in range(12)]
    file = write(tmp_path / "rows.jsonl", rows)
    run = train(tmp_path, base, file, **{**STEPS, "train__max_steps": 60, "train__lr": 1e-2, "method": "full"})
    found = run.manifest["overfitting"]
    evaluations = [record["losses"] | {"step": record["step"]} for record in log(run) if "losses" in record]
    assert len(evaluations) == 6
    last = evaluations[-1]
    assert found["gap"] == pytest.approx(last["validation"] - last["training"])
    assert found["gap"] > 0.3 * last["validation"]
    assert found["since_step"] is not None
    assert last["validation"] == pytest.approx(run.metrics["loss"], rel=1e-5)


def test_the_sample_is_small_and_from_all_over() -> None:
    from tunery.protocols import Encoded

    rows = [Encoded(ids=[i] * 10) for i in range(1000)]
    found = overfitting.sample(rows, 400)
    assert len(found) == overfitting.ROWS
    assert (found[0].ids[0], found[-1].ids[0] > 950) == (0, True)
    assert len(overfitting.sample(rows, 5)) == 5
    assert len(overfitting.sample([Encoded(ids=[1] * 5000)] * 9, 9)) == 1
