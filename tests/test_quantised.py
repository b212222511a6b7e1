"""QLoRA and 8-bit LoRA on a CPU: training, evaluation between, loading, merging, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from small import labelled, one_thread, questions, train, write  # noqa: F401
from test_methods import logits_of
from test_peft_methods import awake, method_of
from tiny import base_of
from tunery.errors import ConfigError
from tunery.models import peft_bridge, quantise, weights
from tunery.models.heads import PooledClassifier, next_token_loss
from tunery.run import build
from tunery.run.run import Run

pytest.importorskip("bitsandbytes")
KINDS = ("nf4", "fp4", "int8")
BATCH = {
    "input_ids": torch.arange(3, 43).view(2, 20),
    "attention_mask": torch.ones(2, 20, dtype=torch.long),
    "labels": torch.arange(3, 43).view(2, 20),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "answers.jsonl", questions(8, longest=6))


def run_of(folder: Path, model: Path, data: Path, kind: str, **settings: Any) -> Run:
    values: dict[str, Any] = {"train__max_steps": 12, "train__lr": 1e-2, "train__patience": None, "eval__every": 5}
    values["data__validation"] = str(data)
    return train(folder, model, data, model__quantise=kind, **values | settings)


def attached(models: Path, kind: str, dtype: str = "bfloat16", **settings: Any) -> tuple[Any, Any]:
    """A quantised llama with an adapter away from its start."""
    model, head = base_of(awake("llama", models), quantise=kind, dtype=dtype).load("causal_lm")
    method = method_of(settings.pop("name", "lora"), **settings)
    torch.manual_seed(1)
    method.attach(model, head)
    with torch.no_grad():
        for parameter in weights.trainable(model).values():
            parameter += 0.05 * torch.randn_like(parameter)
    return model, method


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()
    loss, _ = next_token_loss(model, BATCH)
    loss.backward()
    found = {name: p.grad.clone() for name, p in weights.trainable(model).items() if p.grad is not None}
    model.zero_grad()
    assert found
    return found


def evaluate(model: Any) -> None:
    model.eval()
    with torch.inference_mode():
        next_token_loss(model, BATCH)


# ------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_learns_loads_and_merges(kind: str, dtype: str, models: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, awake("llama", models), data, kind, method="lora", model__dtype=dtype)
    assert run.metrics["loss"] < 0.8 * run.manifest["base_metrics"]["loss"]
    assert len(run.predict([{"question": "parcel 1?"}])) == 1
    tuned = build.load(run.dir)
    assert {p.dtype for name, p in tuned.model.named_parameters() if "lora_" in name} == {getattr(torch, dtype)}
    expected = logits_of(tuned.model)
    assert torch.equal(expected, logits_of(build.load(run.dir).model))
    base, _ = build.with_head(tuned.base, tuned.task, run.config)
    tuned.method.activate(tuned.model, None)
    assert torch.equal(logits_of(tuned.model), logits_of(base))
    tuned.method.activate(tuned.model, "default")
    assert tuned.method.merge(tuned.model) is None
    assert not quantise.is_quantised(tuned.model)
    apart = (logits_of(tuned.model) - expected).norm() / expected.norm()
    assert apart < (1e-5 if (dtype, kind) in (("float32", "nf4"), ("float32", "fp4")) else 0.04)
    assert {type(m).__name__ for m in tuned.model.modules() if "Linear" in type(m).__name__} == {"Linear"}
    tuned.model.save_pretrained(tmp_path / "merged")
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=getattr(torch, dtype))
    plain.config.pad_token_id = tuned.tokenizer.pad_token_id
    assert torch.equal(logits_of(plain), logits_of(tuned.model))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("method", "model"),
    [
        ({"name": "ia3"}, "llama"),
        ({"name": "ia3"}, "gpt2"),
        ({"name": "adalora", "init_r": 4, "target_r": 2}, "llama"),
        ({"name": "bitfit", "norms": True}, "llama"),
        ({"name": "bitfit"}, "gpt2"),
    ],
)
def test_other_methods(kind: str, method: Any, model: str, models: Path, data: Path, tmp_path: Path) -> None:
    changes = {"model__dtype": "bfloat16", "train__max_steps": 10, "train__lr": 5e-2}
    run = run_of(tmp_path, awake(model, models), data, kind, method=method, **changes)
    assert run.metrics["loss"] < run.manifest["base_metrics"]["loss"] - 0.01
    tuned = build.load(run.dir)
    expected = logits_of(tuned.model)
    assert tuned.method.merge(tuned.model) is None
    assert (logits_of(tuned.model) - expected).norm() / expected.norm() < 0.04


def test_dora(models: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, awake("llama", models), data, "nf4", method={"name": "lora", "dora": True})
    assert run.metrics["loss"] < 0.8 * run.manifest["base_metrics"]["loss"]
    tuned = build.load(run.dir)
    expected = logits_of(tuned.model)
    assert tuned.method.merge(tuned.model) is None
    torch.testing.assert_close(logits_of(tuned.model), expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------- the evaluation bug


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_change_gradients(kind: str, models: Path) -> None:
    model, _ = attached(models, kind)
    evaluate(model)  # int8: its state is made in the first forward pass
    before = gradients(model)
    evaluate(model)
    after = gradients(model)
    assert all(torch.equal(grad, after[name]) for name, grad in before.items())


def test_without_the_repair_they_change(models: Path) -> None:
    """The bug is there on processors with AVX512-BF16: the test above can fail."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this processor has no AVX512-BF16")
    model, _ = attached(models, "nf4")
    before = gradients(model)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True
    try:
        evaluate(model)
        after = gradients(model)
    except Exception:
        return  # a packed weight that no longer has the shape that the backward pass needs
    assert any(not torch.allclose(grad, after[name], rtol=0.1) for name, grad in before.items())


# ---------------------------------------------------------------------------------------------- merge


def test_merged_into_the_base_it_was_trained_on(models: Path, tmp_path: Path) -> None:
    """Into the weights that were quantised, not into those from before: they are another base."""
    model, method = attached(models, "nf4", "float32")
    method.save(model, tmp_path / "adapter")
    model.eval()
    expected = logits_of(model)
    other, _ = base_of(awake("llama", models)).load("causal_lm")
    peft_bridge.load(other, tmp_path / "adapter", "default")
    peft_bridge.merge(other)
    assert method.merge(model) is None
    right, wrong = ((logits_of(m) - expected).norm() / expected.norm() for m in (model, other))
    assert right < 1e-5
    assert wrong > 0.05
    assert not hasattr(model.config, "quantization_config")
    assert not getattr(model, "is_quantized", False)


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "kind", "alternative"),
    [
        ({"name": "full"}, "nf4", "lora"),
        ({"name": "freeze"}, "int8", "lora"),
        ({"name": "lora", "init": "pissa"}, "nf4", "init=default"),
        ({"name": "lora", "dora": True}, "int8", "nf4"),
    ],
)
def test_refused(method: Any, kind: str, alternative: str, models: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quantised|int8") as caught:
        run_of(tmp_path, awake("llama", models), data, kind, method=method)
    assert alternative in caught.value.hint


def test_a_pooled_encoder_is_quantised_too(models: Path, tmp_path: Path) -> None:
    """Its wrapper is not one of transformers' classes, so nobody says so but the layers."""
    backbone, _ = base_of(awake("bert", models), quantise="nf4").load("backbone")
    model = PooledClassifier(backbone, 2, "mean", 0.0).eval()
    assert "quantised" in (method_of("full").refuses(None, model) or "")  # type: ignore[arg-type]
    method = method_of("lora")
    method.attach(model, ("classifier",))
    kinds = {type(m).__module__ for m in model.modules() if hasattr(m, "lora_A")}
    assert kinds == {"peft.tuners.lora.bnb"}
    with torch.no_grad():
        for parameter in weights.trainable(model).values():
            parameter += 0.05 * torch.randn_like(parameter)
    inputs = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = model.eval()(**inputs)
        assert method.merge(model) is None
        torch.testing.assert_close(model(**inputs), expected, rtol=1e-4, atol=1e-4)
    assert not quantise.is_quantised(model)


def test_a_quantised_classifier_trains(models: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "labels.jsonl", labelled(8))
    run = run_of(tmp_path, awake("llama", models), rows, "nf4", method="lora", task="classify", train__max_steps=30)
    assert run.metrics["loss"] < 0.5 * run.manifest["base_metrics"]["loss"]
