"""bitfit, ia3, adalora and PiSSA in detail: which weights, which places, whose ranks, and that plain peft agrees."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny
from small import labelled, one_thread, questions, train, weights_of, write  # noqa: F401
from suite_cells import MODELS
from test_methods import frozen_digest, logits_of
from test_resume import check_equal, run_of, stopping_at
from tunery import registry
from tunery.errors import ConfigError, ModelError
from tunery.models import load, pissa, rank_budget, sites, swap, weights
from tunery.protocols import Method
from tunery.run import build
from tunery.run import train as training
from tunery.run.run import Run
from tunery.train.optim import decays

TRAIN: dict[str, Any] = {"train__max_steps": 12, "train__lr": 3e-2, "train__patience": None, "eval__every": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write(tmp_path / "answers.jsonl", questions(8, longest=6))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write(tmp_path / "labels.jsonl", labelled(8))


def awake(name: str, folder: Path) -> Path:
    """A tiny model with eight times larger matrices: its layers do something, and bf16 does not drown it in noise."""
    path = folder / name
    if not path.exists():
        file = tiny.BUILDERS[name](path) / "model.safetensors"
        tensors = {key: t * 8 if t.ndim > 1 and t.std() < 0.05 else t for key, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return path


def method_of(name: str, **settings: Any) -> Method:
    found: Method = registry.get("method", name)(registry.config_class("method", name)(**settings))
    return found


def base_of(folder: Path, kind: str, dtype: str = "float32", **changes: Any) -> tuple[Any, tuple[str, ...]]:
    torch.manual_seed(0)
    config = load.ModelConfig(name=str(folder), dtype=dtype, device="cpu")
    return load.open_base(config).load(kind, **changes)


def in_peft(run: Run, folder: Path, kind: Any = AutoModelForCausalLM, **changes: Any) -> torch.Tensor:
    """Logits of the run's adapter in plain peft on the plain base."""
    plain = kind.from_pretrained(folder, dtype=torch.float32, **changes)
    plain.config.pad_token_id = run.tuned.tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(plain, run.path / "model")
    return logits_of(adapted)


@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_a_pickled_adapter_is_refused(name: str, models: Path, tmp_path: Path, labels: Path) -> None:
    run = train(tmp_path, awake("bert", models), labels, method=name, train__max_steps=1)
    stored = run.path / "model/adapter_model.safetensors"
    torch.save(load_file(stored), stored.with_suffix(".bin"))
    stored.unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing") as caught:
        build.load(Run(run.path).dir)
    assert caught.value.where == str(run.path / "model")


# --------------------------------------------------------------------------------------------- bitfit


def test_bitfit_trains_the_biases_and_the_head(models: Path) -> None:
    model, head = base_of(awake("bert", models), "sequence_classification", num_labels=2)
    method_of("bitfit").attach(model, head)
    every = {name for name, _ in model.named_parameters()}
    expected = {name for name in every if name.endswith("bias") or name.startswith("classifier.")}
    assert set(weights.trainable(model)) == expected
    assert "bert.encoder.layer.1.attention.self.query.bias" in expected


def test_bitfit_with_norms(models: Path) -> None:
    model, head = base_of(awake("llama", models), "causal_lm")
    method = method_of("bitfit", norms=True)
    assert method.refuses(None, model) is None  # type: ignore[arg-type]
    method.attach(model, head)
    kinds = Counter(name.split(".")[-2] for name in weights.trainable(model))
    assert kinds == {"input_layernorm": 2, "post_attention_layernorm": 2, "norm": 1}


@pytest.mark.parametrize(("model", "kind"), [("llama", "causal_lm"), ("t5", "seq2seq_lm"), ("gemma", "causal_lm")])
def test_bitfit_refuses_models_without_biases(model: str, kind: str, models: Path) -> None:
    net, _ = base_of(awake(model, models), kind)
    problem, _, hint = (method_of("bitfit").refuses(None, net) or "").partition(";")  # type: ignore[arg-type]
    assert "no biases" in problem
    assert "norms=true" in hint
    assert "lora" in hint


def test_a_bias_in_the_new_head_alone_does_not_count(models: Path) -> None:
    from tunery.models.heads import PooledClassifier

    backbone, _ = base_of(awake("llama", models), "backbone")
    model = PooledClassifier(backbone, 2, "mean", 0.0)
    assert "classifier.bias" in dict(model.named_parameters())
    assert "no biases" in (method_of("bitfit").refuses(None, model) or "")  # type: ignore[arg-type]


def test_sets_of_weights_change_places(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    own = dict(model.named_parameters())
    base = {name: p.detach().clone() for name, p in own.items()}
    one = {"0.bias": torch.tensor([1.0, 2.0])}
    two = {"0.bias": torch.tensor([5.0, 6.0]), "1.bias": torch.tensor([7.0, 8.0])}
    swap.load(model, one, tmp_path, "one")
    swap.load(model, two, tmp_path, "two")
    for name, tensors in (("two", two), ("one", one), (None, {}), ("two", two), (None, {})):
        swap.activate(model, name)
        assert all(torch.equal(own[key], {**base, **tensors}[key]) for key in base), name
    assert set(model.state_dict()) == set(base), "what is put aside is no part of the model's state"
    with pytest.raises(Exception, match="no adapter 'three'"):
        swap.activate(model, "three")


def test_bitfit_in_memory_goes_back_and_forth(models: Path, tmp_path: Path, labels: Path) -> None:
    folder = awake("bert", models)
    run = train(tmp_path, folder, labels, method="bitfit", task="classify", **TRAIN)
    again = build.load(run.dir)
    trained = logits_of(again.model)
    again.method.activate(again.model, None)
    base, _ = build.with_head(again.base, again.task, run.config)
    assert torch.equal(logits_of(again.model), logits_of(base))
    again.method.activate(again.model, "default")
    assert torch.equal(logits_of(again.model), trained)
    stored = weights_of(run.path / "model")
    assert all(name.endswith("bias") or name.startswith("classifier") for name in stored)


# ------------------------------------------------------------------------------------------------ ia3

PLACES: dict[str, tuple[set[str], set[str]]] = {
    "bert": ({"key", "value"}, {"output.dense"}),
    "distilbert": ({"k_lin", "v_lin"}, {"ffn.lin2"}),
    "roberta": ({"key", "value"}, {"output.dense"}),
    "deberta": ({"key_proj", "value_proj"}, {"output.dense"}),
    "modernbert": ({"Wqkv"}, {"mlp.Wo"}),
    "gpt2": ({"c_attn"}, {"mlp.c_proj"}),
    "llama": ({"k_proj", "v_proj"}, {"down_proj"}),
    "qwen": ({"k_proj", "v_proj"}, {"down_proj"}),
    "gemma": ({"k_proj", "v_proj"}, {"down_proj"}),
    "t5": ({"k", "v"}, {"wo"}),
    "bart": ({"k_proj", "v_proj"}, {"fc2"}),
}


@pytest.mark.parametrize("name", list(PLACES))
def test_ia3_places(name: str, models: Path) -> None:
    """Every layer, every attention in it, and never the attention's output nor a head."""
    kinds = {"encoder": "sequence_classification", "decoder": "causal_lm", "encoder-decoder": "seq2seq_lm"}
    model, head = base_of(awake(name, models), kinds[MODELS[name]])
    outputs, inputs = PLACES[name]
    layers = sum(len(stack) for _, stack in sites.stacks(model))
    attentions = layers + (2 if MODELS[name] == "encoder-decoder" else 0)  # two decoder layers with two attentions each
    method_of("ia3").attach(model, head)
    vectors = {key: p for key, p in weights.trainable(model).items() if "ia3_l" in key}
    scaled = {key.split(".ia3_l")[0]: p.shape for key, p in vectors.items()}
    before = [key for key, shape in scaled.items() if shape[0] == 1]
    after = [key for key, shape in scaled.items() if shape[1] == 1]
    assert len(before) == layers and all(key.endswith(tuple(inputs)) for key in before)
    assert not any("attention.output" in key for key in before)
    assert len(after) == attentions * len(outputs)
    assert {key.rsplit(".", 1)[-1] for key in after} == outputs
    assert all(bool((p == 1).all()) for p in vectors.values())


def test_ia3_in_plain_peft(models: Path, tmp_path: Path, answers: Path, labels: Path) -> None:
    llama, deberta = awake("llama", models), awake("deberta", models)
    run = train(tmp_path, llama, answers, method="ia3", **TRAIN)
    torch.testing.assert_close(in_peft(run, llama), logits_of(run.tuned.model), rtol=0, atol=1e-5)
    assert not torch.equal(in_peft(run, llama), logits_of(AutoModelForCausalLM.from_pretrained(llama)))
    run = train(tmp_path, deberta, labels, method="ia3", task="classify", **TRAIN)
    found = in_peft(run, deberta, AutoModelForSequenceClassification, num_labels=2)
    torch.testing.assert_close(found, logits_of(run.tuned.model), rtol=0, atol=1e-5)


def test_ia3_with_other_places(models: Path) -> None:
    model, head = base_of(awake("llama", models), "causal_lm")
    method_of("ia3", targets=["q_proj"], feedforward=[]).attach(model, head)
    assert {key.split(".")[-3] for key in weights.trainable(model)} == {"q_proj"}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"targets": ["query"]}, "method.targets"),
        ({"feedforward": ["fc2"]}, "method.feedforward"),
        ({"targets": ["down_proj"]}, "method.feedforward"),
    ],
)
def test_ia3_refuses_places_that_are_not_there(settings: dict[str, Any], where: str, models: Path) -> None:
    model, head = base_of(awake("llama", models), "causal_lm")
    with pytest.raises(ConfigError) as caught:
        method_of("ia3", **settings).attach(model, head)
    assert caught.value.where == where
    assert caught.value.hint


def test_weight_decay_does_not_pull_ia3_to_zero() -> None:
    assert not decays("model.layers.0.k_proj.ia3_l.default", torch.ones(8, 1))
    assert decays("model.layers.0.k_proj.lora_A.default.weight", torch.ones(8, 4))


# -------------------------------------------------------------------------------------------- adalora


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adalora_reaches_its_budget(dtype: str, models: Path, tmp_path: Path, answers: Path) -> None:
    """In bf16 the optimizer's fp32 copies would bring the ranks back if they did not follow."""
    method = {"name": "adalora", "init_r": 6, "target_r": 2, "targets": ["q_proj", "v_proj"]}
    run = train(tmp_path, awake("llama", models), answers, method=method, **TRAIN | {"model__dtype": dtype})
    values = [p for name, p in run.tuned.model.named_parameters() if "lora_E" in name]
    assert len(values) == 4
    assert all(p.shape == (6, 1) for p in values), "a rank that was taken away is zero, and rounds as in training"
    assert sum(int(p.count_nonzero()) for p in values) == 2 * 4
    stored = weights_of(run.path / "model")
    assert sum(len(p) for name, p in stored.items() if "lora_A" in name) == 2 * 4, "without what was taken away"
    assert run.manifest["best_step"] >= 12 - int(0.3 * 12), "not one with more ranks than asked for"
    pattern = json.loads((run.path / "model/adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(kept) for kept in pattern.values()) == 2 * 4


def test_adalora_in_plain_peft(models: Path, tmp_path: Path, answers: Path) -> None:
    folder = awake("gpt2", models)
    run = train(tmp_path, folder, answers, method={"name": "adalora", "init_r": 5, "target_r": 1}, **TRAIN)
    expected = logits_of(run.tuned.model)
    torch.testing.assert_close(in_peft(run, folder), expected, rtol=1e-4, atol=1e-5)
    again = build.load(run.dir)
    again.method.save(again.model, tmp_path / "again")
    first, second = weights_of(run.path / "model"), weights_of(tmp_path / "again")
    assert {name: t.shape for name, t in first.items()} == {name: t.shape for name, t in second.items()}
    assert all(torch.equal(t, second[name]) for name, t in first.items())


def test_adalora_resumes_exactly(models: Path, tmp_path: Path, labels: Path) -> None:
    """Stopped while the budget shrinks: importance and ranks are in the checkpoint."""
    changes = {"method": {"name": "adalora", "tinit": 0.2, "tfinal": 0.2, "every": 2}, "train__max_steps": 10}
    whole = run_of(tmp_path / "whole", changes, awake("bert", models), labels)
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(5, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, awake("bert", models), labels)
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


def attached(models: Path, **settings: Any) -> tuple[Any, Method]:
    model, head = base_of(awake("llama", models), "causal_lm")
    method = method_of("adalora", **settings)
    torch.manual_seed(3)
    method.attach(model, head)
    for name, parameter in model.named_parameters():
        if "lora_E" in name:
            torch.nn.init.normal_(parameter)
    return model, method


def test_ranks_are_chosen_as_peft_chooses_them(models: Path) -> None:
    model, _ = attached(models, init_r=4, target_r=2)
    allocator = model._tunery_peft.base_model.rankallocator
    schedule = rank_budget.Schedule(0, 100, 1)
    ours = rank_budget.RankBudget(model, schedule, 1, (allocator.beta1, allocator.beta2), 0.0)
    trained = weights.trainable(model)
    for step in range(1, 5):
        for parameter in trained.values():
            parameter.grad = torch.randn_like(parameter)
        ours.before_step(step, {name: (p.detach(), p.grad) for name, p in trained.items() if p.grad is not None})
        allocator.update_ipt(model)
    theirs = allocator.mask_to_budget(model, 20)
    ours._allocate(20)
    found = {layer % "lora_E": kept.view(-1).tolist() for layer, kept in ours._kept.items()}
    assert found == theirs
    assert sum(sum(kept) for kept in found.values()) == 20


@pytest.mark.parametrize("rows", [True, False])
def test_gradient_of_the_penalty(rows: bool) -> None:
    weight = torch.randn(3, 7, requires_grad=True)
    matrix = weight @ weight.t() if rows else weight.t() @ weight
    (matrix - torch.eye(len(matrix))).norm().backward()
    torch.testing.assert_close(rank_budget._penalty_gradient(weight.detach(), rows), weight.grad)


def test_the_budget_shrinks_from_all_ranks_to_the_last() -> None:
    schedule = rank_budget.Schedule(first=2, last=10, every=3)
    ranks = [schedule.ranks(step, 100, 20) for step in range(1, 13)]
    assert ranks[:2] == [100, 100] and ranks[9:] == [20, 20, 20]
    assert ranks[2:10] == sorted(ranks[2:10], reverse=True) and ranks[5] == int(20 + 80 * 0.5**3)
    assert [step for step in range(1, 13) if schedule.due(step)] == [3, 6, 9, 10]


@pytest.mark.parametrize("settings", [{"init_r": 4, "target_r": 8}, {"tinit": 0.6, "tfinal": 0.4}])
def test_adalora_refuses_what_cannot_be(settings: dict[str, Any], labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"target_r is larger|no steps between") as caught:
        train(tmp_path, tmp_path, labels, method={"name": "adalora", **settings}, task="classify")
    assert caught.value.where.startswith("method")


# ---------------------------------------------------------------------------------------------- PiSSA


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_pissa_starts_at_the_base_and_at_its_singular_values(name: str, rslora: bool, models: Path) -> None:
    model, head = base_of(awake(name, models), "causal_lm")
    before, frozen = logits_of(model), {key: p.detach().clone() for key, p in model.named_parameters()}
    method_of("lora", init="pissa", r=4, rslora=rslora).attach(model, head)
    torch.testing.assert_close(logits_of(model), before, rtol=0, atol=1e-4 * float(before.abs().max()))
    for _, layer in pissa._layers(model):
        weight = layer.base_layer.weight.detach()
        weight = weight.t() if layer.fan_in_fan_out else weight
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert (a.shape[0], b.shape[1]) == (8, 8), "a trained and a fixed half"
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        expected = (u[:, :4] * s[:4]) @ v[:4]
        torch.testing.assert_close(layer.scaling["default"] * b[:, :4] @ a[:4], expected, rtol=1e-3, atol=1e-4)
    kept = {key.replace(".base_layer", ""): p for key, p in model.named_parameters()}
    assert all(torch.equal(kept[key], p) for key, p in frozen.items()), "not one bit of the base has changed"
    trained = weights.trainable(model)
    assert all(4 in p.shape for p in trained.values())


def test_pissa_has_the_gradients_of_the_residual(models: Path) -> None:
    """Peft's own, which replaces the base weights, gives the same gradients and the same function."""
    from peft import LoraConfig, get_peft_model

    folder = awake("llama", models)
    ours, head = base_of(folder, "causal_lm")
    theirs, _ = base_of(folder, "causal_lm")
    targets = ["q_proj", "down_proj"]
    method_of("lora", init="pissa", r=4, targets=targets).attach(ours, head)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights="pissa")
    get_peft_model(theirs, config)
    half = ".parametrizations.weight.original"
    mine = {key.replace(half, ".weight"): p for key, p in weights.trainable(ours).items()}
    with torch.no_grad():  # signs of singular vectors are free: start both from the same ones
        for key, parameter in weights.trainable(theirs).items():
            parameter.copy_(mine[key])
    ids = torch.arange(3, 40).unsqueeze(0)
    for model in (ours, theirs):
        model(input_ids=ids, labels=ids).loss.backward()
    for key, parameter in weights.trainable(theirs).items():
        torch.testing.assert_close(mine[key].grad, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_is_a_plain_adapter_on_disk(rslora: bool, models: Path, tmp_path: Path, answers: Path) -> None:
    folder = awake("llama", models)
    method = {"name": "lora", "init": "pissa", "r": 4, "rslora": rslora}
    run = train(tmp_path, folder, answers, method=method, **TRAIN | {"train__lr": 1e-2, "train__weight_decay": 0.1})
    assert run.metrics["loss"] < 0.9 * run.manifest["base_metrics"]["loss"]
    config = json.loads((run.path / "model/adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"], config["init_lora_weights"]) == (8, False, True)
    loaded = build.load(run.dir)
    expected = logits_of(loaded.model)
    torch.testing.assert_close(in_peft(run, folder), expected, rtol=1e-4, atol=1e-4)
    loaded.method.activate(loaded.model, None)
    base, _ = base_of(folder, "causal_lm")
    assert torch.equal(logits_of(loaded.model), logits_of(base))


def test_pissa_merges_in_memory_and_saves_without_changing(models: Path, tmp_path: Path) -> None:
    model, head = base_of(awake("llama", models), "causal_lm")
    method = method_of("lora", init="pissa", r=4)
    method.attach(model, head)
    with torch.no_grad():
        for parameter in weights.trainable(model).values():
            parameter += 0.02 * torch.randn_like(parameter)
    before, names = logits_of(model), set(weights.trainable(model))
    method.save(model, tmp_path / "adapter")
    assert set(weights.trainable(model)) == names and torch.equal(logits_of(model), before)
    assert method.merge(model) is None
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_pissa_resumes_exactly(models: Path, tmp_path: Path, answers: Path) -> None:
    changes = {"method": {"name": "lora", "init": "pissa"}, "train__max_steps": 8, "model__dtype": "bfloat16"}
    changes["train__dropout"] = 0.1
    whole = run_of(tmp_path / "whole", changes, awake("gpt2", models), answers)
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(5, patch)
        with pytest.raises(SystemExit):
            run_of(tmp_path / "cut", changes | {"run__name": "cut"}, awake("gpt2", models), answers)
    check_equal(Run(training.resume(tmp_path / "cut/cut").path), whole)


@pytest.mark.parametrize("settings", [{"dora": True}, {"dropout": 0.1}])
def test_pissa_refuses(settings: dict[str, Any], models: Path) -> None:
    model, _ = base_of(awake("llama", models), "causal_lm")
    problem, _, hint = (method_of("lora", init="pissa", **settings).refuses(None, model) or "").partition(";")  # type: ignore[arg-type]
    assert "PiSSA" in problem and "method." in hint


def test_the_fast_decomposition_of_large_weights(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where singular values fall off, as those of trained weights do, it is as good as the exact one."""
    parts = []
    for exact in (1024, 0):
        monkeypatch.setattr(pissa, "EXACT", exact)
        model, head = base_of(awake("llama", models), "causal_lm")
        with torch.no_grad():
            for _, layers in sites.stacks(model):
                for module in (m for m in layers.modules() if sites.is_linear(m)):
                    u, s, v = torch.linalg.svd(module.weight, full_matrices=False)
                    module.weight.copy_(u @ torch.diag(s[0] * 0.7 ** torch.arange(len(s))) @ v)
        method_of("lora", init="pissa", r=4).attach(model, head)
        pairs = [(m.lora_A["default"].weight, m.lora_B["default"].weight) for _, m in pissa._layers(model)]
        parts.append([b[:, :4] @ a[:4] for a, b in pairs])
    for slow, fast in zip(*parts, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)


def test_gaussian_start(models: Path) -> None:
    spread = {}
    for init in ("default", "gaussian"):
        model, head = base_of(awake("llama", models), "causal_lm")
        torch.manual_seed(1)
        method_of("lora", init=init, r=4).attach(model, head)
        a = torch.cat([p.detach().flatten() for name, p in weights.trainable(model).items() if "lora_A" in name])
        spread[init] = float(a.abs().max() / a.std())
    assert spread["default"] < 2.5 < spread["gaussian"], "a uniform distribution ends, a Gaussian has tails"


def test_digest_sees_frozen_weights(models: Path) -> None:
    """The check that the base stays as it was can fail."""
    model, head = base_of(awake("bert", models), "sequence_classification")
    method_of("bitfit").attach(model, head)
    before = frozen_digest(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] += 1e-6
    assert frozen_digest(model) != before
