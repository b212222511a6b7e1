"""The training loop: reproducible, the same however a step is cut up, undisturbed by evaluation."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tunery
from small import (  # noqa: F401
    ROWS,
    digests,
    documents,
    labelled,
    log,
    losses,
    one_thread,
    questions,
    scored,
    several,
    train,
    weights_of,
    write,
)
from tunery import registry, rundir
from tunery.errors import DataError, ModelError
from tunery.models.weights import trainable
from tunery.run import build
from tunery.run.run import Run
from tunery.train import loop
from tunery.train.optim import Optimizer, decays, lr_factor

METHODS = registry.names("method")
TASKS = registry.names("task")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write(tmp_path / "asked.jsonl", questions(20))


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return write(tmp_path / "named.jsonl", labelled(20))


def apart(one: Run, other: Run) -> float:
    """The largest difference of any weight between two runs."""
    first, second = weights_of(one.path / "model"), weights_of(other.path / "model")
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def moved(run: Run) -> float:
    """How far training has moved the weights, to compare differences with."""
    base, _ = build.with_head(run.tuned.base, run.tuned.task, run.config)
    start = dict(base.named_parameters())
    return max(
        float((p - start[name]).detach().abs().max()) for name, p in run.tuned.model.named_parameters() if name in start
    )


# --------------------------------------------------------------------------------------- same twice


@pytest.mark.parametrize("method", METHODS)
def test_the_same_configuration_gives_the_same_bits(method: str, tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"method": method, "train__max_steps": 4, "train__dropout": 0.2}
    first, second = (train(tmp_path, tiny_bert, named, **settings) for _ in range(2))
    assert first.path != second.path
    assert digests(first.path / "model") == digests(second.path / "model")
    assert losses(first) == losses(second)
    other = train(tmp_path, tiny_bert, named, **settings, train__seed=43)
    assert digests(other.path / "model") != digests(first.path / "model")


def test_a_runs_own_configuration_trains_it_again(tiny_llama: Path, asked: Path, tmp_path: Path) -> None:
    first = train(tmp_path, tiny_llama, asked, train__max_steps=4)
    second = tunery.train(config=first.path / "config.yaml")
    assert digests(first.path / "model") == digests(second.path / "model")


# ------------------------------------------------------------------------------ how a step is cut up


@pytest.mark.parametrize(("model", "task"), [("tiny_llama", "instruct"), ("tiny_bert", "classify")])
def test_accumulation_equals_one_large_batch(
    model: str, task: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Rows have 1 to 120 supervised tokens: dividing each forward pass by its own number would show."""
    folder = request.getfixturevalue(model)
    data = write(tmp_path / "a.jsonl", ROWS[task](36))
    settings: dict[str, Any] = {"method": "full", "train__max_steps": 6, "train__lr": 1e-3, "train__dropout": 0.0}
    whole = train(tmp_path, folder, data, **settings, train__batch_size=8)
    assert moved(whole) > 1e-3
    for changes in (
        {"train__batch_size": 2, "train__accumulate": 4},
        {"train__batch_size": 1, "train__accumulate": 8},
        {"train__batch_size": 8, "train__micro_tokens": 60},
    ):
        cut = train(tmp_path, folder, data, **settings, **changes)
        assert losses(cut) == pytest.approx(losses(whole), rel=1e-4), changes
        assert cut.manifest["supervised_tokens"] == whole.manifest["supervised_tokens"]
        assert apart(cut, whole) < 5e-5, changes


def test_rows_per_step_and_steps(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    """20 rows less 2 held out, 4 x 2 rows a step: 3 steps an epoch."""
    run = train(
        tmp_path, tiny_bert, named, train__batch_size=2, train__accumulate=4, train__epochs=2, train__patience=None
    )
    assert run.manifest["steps"] == 6
    assert run.manifest["supervised_tokens"] == 36, "each row once an epoch"
    assert [record["step"] for record in log(run) if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in log(run) if "validation" in record] == [3, 6]
    half = train(tmp_path, tiny_bert, named, train__batch_size=8, train__epochs=0.5)
    assert half.manifest["steps"] == 2


# ----------------------------------------------------------------------------- evaluation looks on only


@pytest.mark.parametrize(("model", "rows"), [("tiny_bert", labelled), ("tiny_gpt2", questions)])
def test_evaluation_does_not_change_training(
    model: str, rows: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = write(tmp_path / "a.jsonl", rows(20))
    settings: dict[str, Any] = {"train__max_steps": 6, "train__patience": None, "train__keep": "last"}
    settings |= {"train__dropout": 0.3, "method": "full", "train__lr": 1e-3}
    folder = request.getfixturevalue(model)
    never, often, epochs = (
        train(tmp_path, folder, data, **settings, eval__every=every) for every in (1000, 1, "epoch")
    )
    assert len([r for r in log(often) if "validation" in r]) == 6
    assert len([r for r in log(never) if "validation" in r]) == 1
    assert losses(never) == losses(often) == losses(epochs)
    assert digests(never.path / "model") == digests(often.path / "model") == digests(epochs.path / "model")


# -------------------------------------------------------------------------------------- early stopping


def misleading(tmp_path: Path) -> dict[str, Any]:
    """Validation rows with the labels the wrong way round: the better the rows are learnt, the worse it gets."""
    rows = labelled(16)
    wrong = [{"text": row["text"], "label": "bad" if row["label"] == "good" else "good"} for row in rows]
    return {
        "data": write(tmp_path / "train.jsonl", rows),
        "data__validation": str(write(tmp_path / "wrong.jsonl", wrong)),
        "data__on_leak": "warn",
        "eval__every": 5,
        "eval__metrics": ["accuracy", "loss"],
        "train__lr": 5e-3,
        "train__dropout": 0.0,
        "train__max_steps": 60,
        "train__schedule": "constant",
        "train__warmup": 0,
        "method": "full",
    }


def test_early_stopping_keeps_the_best_weights(tiny_bert: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny_bert, train__patience=3, **misleading(tmp_path))
    seen = {r["step"]: r["validation"]["accuracy"] for r in log(run) if "validation" in r}
    manifest = run.manifest
    assert manifest["stopped_early"]
    assert manifest["steps"] < 60
    best = max(seen.values())
    assert manifest["best_step"] == min(step for step, value in seen.items() if value == best)
    assert manifest["steps"] == manifest["best_step"] + 3 * 5
    assert run.metrics["accuracy"] == best
    assert run.evaluate(run.config.data.validation)["metrics"]["accuracy"] == best
    assert seen[manifest["steps"]] < best, "the last weights are worse, so keeping them would show"
    short = train(
        tmp_path, tiny_bert, train__patience=None, train__keep="last",
        **(misleading(tmp_path) | {"eval__every": manifest["best_step"], "train__max_steps": manifest["best_step"]}),
    )  # fmt: skip
    assert weights_of(short.path / "model").keys() == weights_of(run.path / "model").keys()
    assert digests(short.path / "model") == digests(run.path / "model")


def test_without_patience_it_goes_on(tiny_bert: Path, tmp_path: Path) -> None:
    settings = misleading(tmp_path) | {"train__max_steps": 40}
    run = train(tmp_path, tiny_bert, train__patience=None, **settings)
    assert run.manifest["steps"] == 40
    assert not run.manifest["stopped_early"]
    assert run.manifest["best_step"] < 40
    last = train(tmp_path, tiny_bert, train__patience=None, train__keep="last", **settings)
    assert last.metrics["accuracy"] < run.metrics["accuracy"]


def test_min_delta_says_what_counts_as_better(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    run = train(tmp_path, tiny_bert, named, train__min_delta=5.0, train__patience=2, eval__every=1, train__max_steps=9)
    assert (run.manifest["steps"], run.manifest["best_step"]) == (3, 1)


# --------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_schedules(schedule: str, warmup: int) -> None:
    rates = [lr_factor(schedule, step, 100, warmup) for step in range(100)]
    assert rates[:warmup] == pytest.approx([(i + 1) / (warmup + 1) for i in range(warmup)])
    assert rates[warmup] == 1.0
    after = rates[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(after))
    if schedule == "constant":
        assert set(after) == {1.0}
    else:
        assert 0 < rates[-1] < 0.05
        half = rates[warmup + (100 - warmup) // 2]
        assert half == pytest.approx(0.5, abs=0.02)
    if schedule == "cosine":
        quarter = rates[warmup + (100 - warmup) // 4]
        assert quarter == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)), abs=0.02)


def test_the_logged_rate_follows_the_schedule(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    run = train(
        tmp_path, tiny_bert, named, train__lr=1e-3, train__max_steps=10, train__warmup=0.2, train__schedule="cosine"
    )
    rates = [record["lr"] for record in log(run) if "loss" in record]
    assert rates == pytest.approx([1e-3 * lr_factor("cosine", step, 10, 2) for step in range(10)])
    steps = train(tmp_path, tiny_bert, named, train__lr=1e-3, train__max_steps=6, train__warmup=3)
    rates = [record["lr"] for record in log(steps) if "loss" in record]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])


# --------------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_llama", "tiny_gpt2"])
def test_weight_decay_leaves_biases_and_norms_alone(model: str, request: pytest.FixtureRequest) -> None:
    """Without gradients' help: one step of pure decay moves matrices only."""
    from transformers import AutoModel

    net = AutoModel.from_pretrained(request.getfixturevalue(model))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = Optimizer([{"named": list(net.named_parameters()), "lr_scale": 1.0}], lr=0.1, weight_decay=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.collect()
    optimizer.step(1.0, 1.0, 1.0)
    for name, parameter in net.named_parameters():
        norms = isinstance(net.get_submodule(name.rpartition(".")[0]), nn.LayerNorm) or "norm" in name.lower()
        if name.endswith("bias") or norms:
            assert not decays(name, parameter)
            assert torch.equal(parameter, before[name]), name
        else:
            torch.testing.assert_close(parameter.detach(), before[name] * 0.95, msg=name)


def test_one_step_is_torchs_adamw() -> None:
    mine, other = (nn.Linear(4, 3, bias=False) for _ in range(2))
    other.load_state_dict(mine.state_dict())
    optimizer = Optimizer([{"named": [("weight", mine.weight)], "lr_scale": 1.0}], lr=0.1, weight_decay=0.5)
    plain = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.5)
    for seed in range(5):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
        mine(x).square().sum().backward()
        optimizer.collect()
        norm = optimizer.step(1 / 6, 1.0, 1.0)
        (other(x).square().sum() / 6).backward()
        expected = torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        plain.step()
        plain.zero_grad()
        assert norm == pytest.approx(float(expected), rel=1e-5)
        torch.testing.assert_close(mine.weight, other.weight)


def test_bfloat16_parameters_have_float32_masters() -> None:
    """A thousand updates far below bf16's resolution add up in the master; in bf16 they would vanish."""
    weight = nn.Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
    optimizer = Optimizer([{"named": [("weight", weight)], "lr_scale": 1.0}], lr=1e-4, weight_decay=0.0)
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        optimizer.collect()
        optimizer.step(1.0, 0.0, 1.0)
    assert optimizer.masters[0].dtype == torch.float32
    torch.testing.assert_close(weight.detach().float(), torch.full((8, 8), 0.9), atol=0.004, rtol=0)


def test_gradients_are_clipped(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    norms = []
    for clip in (0.0, 1e-3):
        run = train(tmp_path, tiny_bert, named, method="full", train__clip=clip, train__max_steps=2, train__lr=1e-3)
        norms.append([record["grad_norm"] for record in log(run) if "loss" in record])
    assert norms[0][0] == norms[1][0] > 1e-3, "the norm is that before clipping"


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_trains(method: str, tiny_llama: Path, asked: Path, tmp_path: Path) -> None:
    faster: dict[str, Any] = {"train__lr": 5e-2} if method == "adalora" else {}  # its updates begin at nothing
    if method == "bitfit":
        faster = {"method__norms": True}  # Llama has no biases
    run = train(tmp_path, tiny_llama, asked, method=method, model__dtype="bfloat16", train__max_steps=6, **faster)
    assert run.manifest["dtype"] == "bfloat16"
    parameters = trainable(run.tuned.model) or dict(run.tuned.model.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.bfloat16}
    assert run.metrics["loss"] < run.manifest["base_metrics"]["loss"]


# ------------------------------------------------------------------------------------------ held-out rows


def test_validation_is_held_out_and_told(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(40))
    first = train(tmp_path, tiny_bert, data, train__max_steps=1)
    assert first.manifest["rows"] == {"train": 36, "validation": 4}
    assert "4 of 40 training rows held out" in (first.path / "log.txt").read_text(encoding="utf-8")
    ledger = json.loads((first.path / "ledger.json").read_text())
    assert ledger["splits"] == {"train": 36, "validation": 4}
    predictions = [json.loads(x) for x in (first.path / "eval/validation/predictions.jsonl").read_text().splitlines()]
    assert sorted(p["reference"] for p in predictions) == ["bad", "bad", "good", "good"], "stratified"
    given = train(tmp_path, tiny_bert, data, data__validation=str(data), train__max_steps=1)
    assert given.manifest["rows"] == {"train": 40, "validation": 40}


# ------------------------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_roberta", "tiny_gpt2", "tiny_llama"])
def test_dropout_is_as_the_configuration_says(
    model: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 0 two forward passes in training mode agree, with 0.5 they do not; llama has only attention dropout."""
    from tunery.data.batch import collate
    from tunery.run import train as training

    rows = {0.0: [], 0.5: []}  # type: dict[float, list[bool]]
    data = write(tmp_path / "a.jsonl", labelled(20))
    for rate, found in rows.items():

        def look(trainer: Any, *_: Any, found: list[bool] = found) -> loop.Progression:
            trainer.model.train()
            batch = collate(trainer.rows[:4], trainer.pad_id)
            with torch.no_grad():
                one, two = (trainer.task.loss(trainer.model, batch)[2] for _ in range(2))
            found.append(torch.equal(one, two))
            return trainer.now

        monkeypatch.setattr(training.Trainer, "train", look)
        train(tmp_path, request.getfixturevalue(model), data, method="full", train__dropout=rate)
    assert rows == {0.0: [True], 0.5: [False]}


# ------------------------------------------------------------------------------------------ every task


def test_every_task_has_rows_to_be_tested_with() -> None:
    assert set(TASKS) <= set(ROWS), "add rows for the new task to small.ROWS"


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_bert", "tiny_roberta"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_trains_on_every_model(
    task: str, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = write(tmp_path / "a.jsonl", ROWS[task](12))
    try:
        run = train(
            tmp_path, request.getfixturevalue(model), data, task=task, method="full", data__validation=str(data),
            train__lr=5e-3, train__max_steps=40, train__patience=None, eval__every=20,
        )  # fmt: skip
    except ModelError as error:
        assert error.hint, "a refusal names an alternative"
        pytest.skip(str(error))
    base, tuned = run.manifest["base_metrics"]["loss"], run.metrics["loss"]
    assert tuned < 0.9 * base
    assert set(run.metrics) == set(run.manifest["base_metrics"])


def test_regression_predicts_numbers_of_the_right_size(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": 1000 + 100 * row["label"]} for row in scored(16)]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, tiny_bert, data, task="regress", method="full", data__validation=str(data), train__lr=5e-3,
        train__max_steps=60, train__patience=None,
    )  # fmt: skip
    assert run.metrics["r2"] > 0.8
    assert run.manifest["base_metrics"]["r2"] < 0.5
    for row, prediction in zip(rows, run.predict([row["text"] for row in rows]), strict=True):
        assert prediction.value == pytest.approx(row["label"], abs=120)


def test_several_labels_a_row(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", several(16))
    run = train(
        tmp_path, tiny_bert, data, method="full", data__validation=str(data), train__lr=2e-3, train__max_steps=150,
        train__patience=None, eval__every=50,
    )  # fmt: skip
    assert run.config.task_name == "classify"
    assert run.metrics["subset_accuracy"] == 1.0
    assert run.predict(["wonderful", "awful", "great sad"])[2].probabilities is not None
    found = [prediction.value for prediction in run.predict([row["text"] for row in several(16)])]
    assert [sorted(value) for value in found] == [sorted(row["label"]) for row in several(16)]


def test_pairs_of_texts(tiny_bert: Path, tmp_path: Path) -> None:
    """Only the second text tells the label."""
    texts = [row["text"] for row in labelled(4)]
    rows = [{"text": text, "text_pair": row["text"], "label": row["label"]} for text in texts for row in labelled(4)]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, tiny_bert, data, method="full", data__validation=str(data), train__lr=5e-3, train__max_steps=40,
        train__patience=None, eval__every=20,
    )  # fmt: skip
    assert run.metrics["accuracy"] == 1.0
    assert [p.value for p in run.predict([{k: row[k] for k in ("text", "text_pair")} for row in rows])] == [
        row["label"] for row in rows
    ]


def test_pairs_beside_single_texts_are_read_as_alone(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [row | ({"text_pair": "the film is good"} if i % 3 else {}) for i, row in enumerate(labelled(16))]
    run = train(
        tmp_path, tiny_bert, write(tmp_path / "a.jsonl", rows), method="full", train__max_steps=2, train__lr=1e-2
    )
    inputs = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in rows]
    for together, row in zip(run.predict(inputs), inputs, strict=True):
        assert together.probabilities == pytest.approx(run.predict([row])[0].probabilities, abs=1e-6)


# ----------------------------------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_a_number_ends_the_run(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the loss is") as caught:
        train(
            tmp_path, tiny_bert, named, method="full", train__lr=1e30, train__clip=0.0, train__max_steps=20,
            run__name="broken", train__patience=None,
        )  # fmt: skip
    assert caught.value.where == "train.lr"
    assert json.loads((tmp_path / "broken/manifest.json").read_text())["status"] == "failed"


def test_a_last_step_that_destroys_the_weights_ends_the_run(tiny_bert: Path, named: Path, tmp_path: Path) -> None:
    """The loss of that step is of the weights before it: only the evaluation after it sees what became of them."""
    with pytest.raises(ModelError, match="the validation loss is") as caught:
        train(tmp_path, tiny_bert, named, method="full", train__lr=1e30, train__max_steps=1, run__name="broken")
    assert caught.value.where == "train.lr"
    assert strict((tmp_path / "broken/manifest.json").read_text())["status"] == "failed"
    assert len([strict(line) for line in (tmp_path / "broken/metrics.jsonl").read_text().splitlines()]) == 1


def strict(text: str) -> Any:
    """JSON as its standard has it: Python alone reads NaN and Infinity."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_records_of_numbers_that_are_none_are_json(tmp_path: Path) -> None:
    record = {"loss": math.nan, "best": [1.5, (math.inf, "北京")], "at": {"step": -math.inf, 1: None, "path": tmp_path}}
    plain = {"loss": None, "best": [1.5, [None, "北京"]], "at": {"step": None, "1": None, "path": str(tmp_path)}}
    rundir.write_json(tmp_path / "a.json", record)
    rundir.write_jsonl(tmp_path / "a.jsonl", [{"loss": math.nan}, {"loss": 0.5}])
    run = rundir.RunDir.create(tmp_path, "run")
    run.log_metrics({"loss": math.inf})
    assert strict((tmp_path / "a.json").read_text(encoding="utf-8")) == plain
    assert [strict(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"loss": None}, {"loss": 0.5}]
    assert strict(run.metrics_file.read_text()) == {"loss": None}


def test_any_defect_leaves_a_failed_run(
    tiny_bert: Path, named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(loop.Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        train(tmp_path, tiny_bert, named, run__name="broken")
    manifest = json.loads((tmp_path / "broken/manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "a kernel failed" in manifest["problem"]


def test_all_targets_equal_is_a_data_error(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": 3.0} for i in range(12)])
    with pytest.raises(DataError, match="same target"):
        train(tmp_path, tiny_bert, data, task="regress")


# ------------------------------------------------------------------------------------------ two processes


SCRIPT = """
import json, sys
import tunery
from tunery.models import machine
machine.cpus = lambda: 1
for settings in json.loads(sys.argv[1]):
    tunery.train(**settings)
"""


@pytest.mark.slow
def test_two_processes_equal_one(tiny_llama: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """21 rows, 8 a step: in the last step of an epoch both processes have rows for less than a batch, and with few
    tokens a forward pass they need different numbers of them.
    """
    cases = {"instruct": tiny_llama, "classify": tiny_bert}
    apart_from_rows: list[dict[str, Any]] = []
    for task, model in cases.items():
        data = str(write(tmp_path / f"{task}.jsonl", ROWS[task](21)))
        settings = {
            "data": data, "model": str(model), "task": task, "method": "full", "model.dtype": "float32",
            "data.validation": data, "eval.max_new_tokens": 2, "eval.generate_rows": 2, "train.lr": 1e-3,
            "train.dropout": 0.0, "train.max_steps": 7, "train.micro_tokens": 200, "train.clip": 0.5,
            "eval.every": 2, "train.patience": 2,
        }  # fmt: skip
        apart_from_rows.append(settings)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    two = [settings | {"train.batch_size": 4, "run.dir": str(tmp_path / "two")} for settings in apart_from_rows]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--standalone",
            script,
            json.dumps(two),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "two").iterdir())) == 2, "one directory a run, not one a process"
    for settings in apart_from_rows:
        one = tunery.train(**settings | {"train.batch_size": 8, "run.dir": str(tmp_path / "one")})
        (path,) = (tmp_path / "two").glob(f"*-{settings['task']}-*")
        both = Run(path)
        assert both.manifest["status"] == "completed"
        assert losses(both) == pytest.approx(losses(one), rel=1e-4)
        assert both.manifest["tokens"] == one.manifest["tokens"]
        assert both.manifest["supervised_tokens"] == one.manifest["supervised_tokens"]
        assert moved(one) > 1e-3
        assert apart(one, both) < 5e-5
        assert both.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-3)


def test_test_rows_can_be_left_to_a_later_evaluation(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", labelled(30))
    held = write(tmp_path / "test.jsonl", labelled(12, seed=5))
    keys = {"data__test": str(held), "task": "classify", "method": "freeze", "train__max_steps": 1}
    run = train(tmp_path, tiny_bert, data, eval__test=False, eval__base=False, **keys)
    found = run.manifest
    assert found["rows"]["test"] == 12  # leaks into test are looked for all the same
    assert found["test_metrics"] is None
    assert not found["test_baselines"]
    assert not {"base_metrics", "base_test_metrics"} & found.keys()
    assert sorted(path.name for path in (run.path / "eval").iterdir()) == ["validation"]
    assert run.evaluate(name="test")["rows"] == 12
    assert run.summary()["metrics"]
