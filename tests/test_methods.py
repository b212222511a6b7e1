"""What every method must show, on every kind of model; a new method is tested the day its file appears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from small import labelled, lively, one_thread, questions, train, weights_of, write  # noqa: F401
from suite_cells import awake
from tiny import copy_of
from tunery import registry
from tunery.data.batch import collate
from tunery.errors import ConfigError, ModelError
from tunery.models import weights
from tunery.models.attention import choose_attention
from tunery.protocols import Encoded
from tunery.run import build
from tunery.run.run import Run

METHODS = registry.names("method")
CASES = [("instruct", "llama"), ("instruct", "gpt2"), *[("classify", m) for m in ("bert", "roberta", "llama", "gpt2")]]
SETTINGS: dict[str, dict[str, Any]] = {
    "adapter": {"method__reduction": 2},
    "adalora": {"train__lr": 5e-2},
    "prompt": {"train__lr": 2e-2},
    "prefix": {"method__projection": True, "train__dropout": 0.0},
}
"""Settings a method needs to learn eight rows by heart in a moment, where the ones below do not do."""
SOFT_METHODS = ("prompt", "p_tuning", "prefix")
"""Vectors in the input reach only what frozen random layers make of them: they cannot learn all rows by heart."""
FEW_PARAMETERS = ("bitfit", "ia3")
"""A few hundred numbers that shift or rescale what frozen random layers make."""
TO_OVERFIT: dict[str, Any] = {"train__lr": 1e-2, "train__max_steps": 60, "train__weight_decay": 0.0}
VARIANTS: list[dict[str, Any]] = [
    {"name": "lora", "rslora": True},
    {"name": "lora", "dora": True},
    {"name": "lora", "lora_plus": 16.0},
    {"name": "lora", "init": "pissa"},
    {"name": "lora", "r": 16, "alpha": 64, "targets": ["o_proj", "down_proj"]},
    {"name": "adapter", "placement": "pfeiffer", "reduction": 2, "scale": "learned"},
    {"name": "adapter", "placement": "parallel", "layers": [-1], "dropout": 0.1},
    {"name": "freeze", "layers": 0},
    {"name": "freeze", "layers": 1},
    {"name": "freeze", "layers": "all"},
    {"name": "freeze", "patterns": ["*.layers.1.mlp.*"]},
]


@dataclass(slots=True)
class Trained:
    """A finished run, and the model as it was in memory when the run was saved."""

    run: Run
    logits: torch.Tensor
    frozen: str
    """Digest of all that was not trained."""


def logits_of(model: Any) -> torch.Tensor:
    """On three rows of different length; with the kernel that training used, so that bits can be compared."""
    rows = [Encoded(list(range(3, 3 + n))) for n in (4, 19, 11)]
    batch = collate(rows, model.config.pad_token_id)
    choose_attention(model, batch["input_ids"].shape, torch.device("cpu"))
    was_training = model.training
    with torch.no_grad():
        out = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    model.train(was_training)
    found: torch.Tensor = getattr(out, "logits", out)
    if found.ndim == 3:  # a language model: padding has no meaning
        found = found[batch["attention_mask"] == 1]
    return found.clone()


def frozen_digest(model: Any) -> str:
    return weights.digest({name: p for name, p in model.named_parameters() if not p.requires_grad})


def fresh(run: Run) -> tuple[Any, Any, tuple[str, ...]]:
    """The untouched base with the task's head as at the beginning of the run → model, method, head."""
    task, method = build.parts(run.config)
    task.restore(run.tuned.task.state())
    method.prepare(task, run.tuned.tokenizer)
    model, head = build.with_head(run.tuned.base, task, run.config)
    return model, method, head


def rows_for(task: str, folder: Path) -> Path:
    rows = labelled(8) if task == "classify" else questions(8, longest=8)
    return write(folder / f"{task}.jsonl", rows)


Key = tuple[str, str, str]


@pytest.fixture(scope="module")
def runs() -> dict[Key, Trained | str]:
    return {}


def trained(
    method: Any, task: str, model: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]
) -> Trained:
    """Eight rows learnt by heart; each combination is trained once. A refusal skips the test."""
    key = (str(method), task, model)
    if key not in runs:
        name = method if isinstance(method, str) else method["name"]
        runs[key] = _train(method, task, model_folder(task, model, request, name), request)
    found = runs[key]
    if isinstance(found, str):
        pytest.skip(found)
    return found


def model_folder(task: str, model: str, request: pytest.FixtureRequest, method: str = "lora") -> Path:
    if method not in ("full", "freeze", "lora"):  # the others work with what the frozen layers give
        return awake(model, request.getfixturevalue("models_folder") / "awake")
    base: Path = request.getfixturevalue(f"tiny_{model}")
    folder = base.with_name(f"{base.name}-lively")
    if task != "instruct":
        return base
    return folder if folder.exists() else lively(base, folder)


def _train(method: Any, task: str, model: Path, request: pytest.FixtureRequest) -> Trained | str:
    folder = request.getfixturevalue("tmp_path_factory").mktemp("run")
    data = rows_for(task, folder)
    seen: list[tuple[torch.Tensor, str]] = []
    original = build.Tuned.save

    def save(self: build.Tuned, folder: Path) -> None:
        seen.append((logits_of(self.model), frozen_digest(self.model)))
        original(self, folder)

    name = method if isinstance(method, str) else method["name"]
    settings = TO_OVERFIT | SETTINGS.get(name, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.Tuned, "save", save)
        try:
            run = train(
                folder, model, data, method=method, task=task, data__validation=str(data), eval__every=20,
                train__patience=None, **settings,
            )  # fmt: skip
        except ConfigError as error:
            assert error.hint, "a refusal names an alternative"
            return str(error)
    return Trained(run, *seen[0])


@pytest.fixture(params=[f"{method}-{task}-{model}" for method in METHODS for task, model in CASES])
def case(request: pytest.FixtureRequest, runs: dict[Key, Trained | str]) -> Iterator[Trained]:
    method, task, model = request.param.rsplit("-", 2)
    yield trained(method, task, model, request, runs)


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join(f"{k}={x}" if k != "name" else x for k, x in v.items()))
def variant(request: pytest.FixtureRequest, runs: dict[Key, Trained | str]) -> Iterator[Trained]:
    yield trained(request.param, "instruct", "llama", request, runs)


# ------------------------------------------------------------------------------ what every method shows


def check_learns(case: Trained) -> None:
    base, tuned = case.run.manifest["base_metrics"], case.run.metrics
    name = case.run.config.method_name
    left = 0.98 if name in SOFT_METHODS else 0.95 if name in FEW_PARAMETERS else 0.8
    assert tuned["loss"] < left * base["loss"], (base, tuned)


def check_reloads(case: Trained) -> None:
    again = build.load(case.run.dir)
    assert torch.equal(logits_of(again.model), case.logits)
    assert not again.model.training


def check_frozen(case: Trained) -> None:
    model, method, head = fresh(case.run)
    torch.manual_seed(case.run.config.train.seed + 1)
    method.attach(model, head)
    assert frozen_digest(model) == case.frozen


def check_base_is_back(case: Trained) -> None:
    tuned = build.load(case.run.dir)
    try:
        tuned.method.activate(tuned.model, None)
    except ModelError as error:
        assert error.hint
        assert tuned.method.name in ("full", "freeze"), "only methods that overwrite weights may refuse"
        return
    base, _, _ = fresh(case.run)
    assert torch.equal(logits_of(tuned.model), logits_of(base))
    tuned.method.activate(tuned.model, "default")
    assert torch.equal(logits_of(tuned.model), case.logits)


def check_merges(case: Trained) -> None:
    tuned = build.load(case.run.dir)
    reason = tuned.method.merge(tuned.model)
    assert (reason is None) == tuned.method.merges
    if reason is None:
        torch.testing.assert_close(logits_of(tuned.model), case.logits, rtol=1e-4, atol=1e-4)
        names = {name for name, _ in fresh(case.run)[0].named_parameters()}
        assert {name for name, _ in tuned.model.named_parameters()} == names
    else:
        assert len(reason) > 10


CHECKS = [check_learns, check_reloads, check_frozen, check_base_is_back, check_merges]


@pytest.mark.parametrize("check", CHECKS)
def test_every_method(case: Trained, check: Any) -> None:
    check(case)


@pytest.mark.parametrize("check", CHECKS)
def test_options(variant: Trained, check: Any) -> None:
    check(variant)


def test_a_classifier_knows_its_eight_rows(case: Trained) -> None:
    if case.run.config.task_name != "classify":
        pytest.skip("for classifiers")
    if case.run.config.method_name in ("freeze", *SOFT_METHODS, *FEW_PARAMETERS) and case.run.metrics["accuracy"] < 1:
        pytest.skip("frozen random features need not tell all rows apart")
    assert case.run.metrics["accuracy"] == 1.0


def test_something_is_trained_and_counted(case: Trained) -> None:
    parameters = case.run.manifest["parameters"]
    assert 0 < parameters["trainable"] <= parameters["total"]
    if case.run.config.method_name != "full":
        assert parameters["trainable"] < parameters["total"]


def test_every_trained_parameter_is_in_one_group(case: Trained) -> None:
    model, method, head = fresh(case.run)
    method.attach(model, head)
    groups = method.groups(model)
    names = [name for group in groups for name, _ in group["named"]]
    assert sorted(names) == sorted(weights.trainable(model))
    assert all(group["lr_scale"] > 0 for group in groups)


def test_weights_are_stored_once_and_not_as_pickles(case: Trained) -> None:
    stored = weights_of(case.run.path / "model")
    count = sum(tensor.numel() for tensor in stored.values())
    assert count <= case.run.manifest["parameters"]["total"]
    if case.run.config.method_name != "adalora":  # it takes ranks away
        assert count >= case.run.manifest["parameters"]["trainable"]


@pytest.mark.parametrize("name", METHODS)
def test_listed_facts(name: str) -> None:
    method = registry.get("method", name)
    assert method.summary
    assert method.saves
    assert method.paper, "say where it comes from"
    instance = method(method.Config())
    for family in ("decoder", "encoder", "encoder-decoder"):
        assert 1e-6 < instance.default_lr(100_000_000, family) < 1e-1


@pytest.mark.parametrize("name", METHODS)
def test_damaged_weights_are_refused(name: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]) -> None:
    import shutil

    case = trained(name, "classify", "bert", request, runs)
    copy = request.getfixturevalue("tmp_path") / "copy"
    shutil.copytree(case.run.path, copy)
    for file in (copy / "model").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError):
        build.load(Run(copy).dir)
    for file in (copy / "model").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError):
        build.load(Run(copy).dir)


# -------------------------------------------------------------------------------- other programs read it


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_plain_peft_loads_a_lora_run(
    model: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]
) -> None:
    from peft import PeftModel

    case = trained("lora", "instruct", model, request, runs)
    plain = AutoModelForCausalLM.from_pretrained(model_folder("instruct", model, request), dtype=torch.float32)
    plain.config.pad_token_id = case.run.tuned.tokenizer.pad_token_id
    before = logits_of(plain)
    adapted = PeftModel.from_pretrained(plain, case.run.path / "model")
    assert not torch.equal(before, logits_of(adapted))
    torch.testing.assert_close(logits_of(adapted), case.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["bert", "roberta", "llama", "gpt2"])
def test_plain_peft_loads_a_classifier_with_a_stock_head(
    model: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]
) -> None:
    from peft import PeftModel

    case = trained("lora", "classify", model, request, runs)
    folder = request.getfixturevalue(f"tiny_{model}")
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    plain.config.pad_token_id = case.run.tuned.tokenizer.pad_token_id
    adapted = PeftModel.from_pretrained(plain, case.run.path / "model")
    torch.testing.assert_close(logits_of(adapted), case.logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("task", "model"), CASES)
def test_plain_transformers_loads_a_full_run(
    task: str, model: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]
) -> None:
    case = trained("full", task, model, request, runs)
    kind = AutoModelForCausalLM if task == "instruct" else AutoModelForSequenceClassification
    plain = kind.from_pretrained(case.run.path / "model", dtype=torch.float32)
    torch.testing.assert_close(logits_of(plain), case.logits, rtol=0, atol=1e-6)
    if task == "classify":
        assert plain.config.id2label == {0: "bad", 1: "good"}


def test_a_full_run_on_a_base_of_old_names_loads_again(tiny_bert: Path, tmp_path: Path) -> None:
    """BERT's first checkpoints call the weight and the bias of a norm gamma and beta."""
    model = copy_of(tiny_bert, tmp_path / "model")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    named = {next((n.replace(a, b) for a, b in old.items() if a in n), n): t for n, t in weights_of(model).items()}
    assert any("gamma" in name for name in named) and any("beta" in name for name in named)
    save_file(named, model / "model.safetensors", metadata={"format": "pt"})
    data = rows_for("classify", tmp_path)
    run = train(tmp_path, model, data, data__validation=str(data), method="full", train__max_steps=2, train__lr=1e-2)
    assert run.evaluate(data)["metrics"]["loss"] == pytest.approx(run.metrics["loss"])
    plain = AutoModelForSequenceClassification.from_pretrained(run.path / "model", dtype=torch.float32)
    torch.testing.assert_close(logits_of(plain), logits_of(run.tuned.model), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------ freeze, in detail


@pytest.mark.parametrize("model", ["llama", "gpt2", "bert", "roberta"])
def test_freeze_trains_what_it_says(model: str, request: pytest.FixtureRequest, runs: dict[Key, Trained | str]) -> None:
    run = trained("freeze", "classify", model, request, runs).run
    config = registry.config_class("method", "freeze")

    def free(**settings: Any) -> set[str]:
        net, _, head = fresh(run)
        registry.get("method", "freeze")(config(**settings)).attach(net, head)
        return set(weights.trainable(net))

    net, _, head = fresh(run)
    every = {name for name, _ in net.named_parameters()}
    heads = {name for name in every if name.startswith(tuple(f"{h}." for h in head))}
    layers = ".layers." if model == "llama" else ".h." if model == "gpt2" else ".layer."
    last = {name for name in every if f"{layers}1." in name}
    first = {name for name in every if f"{layers}0." in name}
    assert heads
    assert last
    assert first
    assert free(layers=0) == heads
    assert last | heads <= free(layers=1)
    assert not first & free(layers=1)
    assert first | last | heads <= free(layers="all")
    assert not any("embed" in name or "wte" in name or "wpe" in name for name in free(layers="all"))
    assert free(patterns=[f"*{layers}0.*"]) == first | heads


def test_freeze_refuses_a_pattern_that_matches_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    with pytest.raises(ConfigError, match="no parameter matches") as caught:
        train(tmp_path, tiny_bert, data, method={"name": "freeze", "patterns": ["nothing*"]})
    assert caught.value.where == "method.patterns"


# -------------------------------------------------------------------------------------- lora, in detail


def test_lora_attaches_to_all_linear_layers_of_the_stack(tiny_bert: Path, tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    for folder, per_layer in ((tiny_bert, 6), (tiny_llama, 7)):
        run = train(tmp_path, folder, data, method="lora", train__max_steps=1)
        stored = weights_of(run.path / "model")
        assert sum("lora_A" in name for name in stored) == 2 * per_layer
        assert not any("pooler" in name and "lora" in name for name in stored)
        assert any("classifier" in name or "score" in name for name in stored), "the new head is saved too"


def test_lora_refuses_a_target_that_is_not_there(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", labelled(20))
    with pytest.raises(ConfigError, match="no layer matches") as caught:
        train(tmp_path, tiny_bert, data, method={"name": "lora", "targets": ["q_proj"]})
    assert "query" in caught.value.hint


def test_lora_plus_gives_b_a_higher_rate(request: pytest.FixtureRequest, runs: dict[Key, Trained | str]) -> None:
    run = trained({"name": "lora", "lora_plus": 16.0}, "instruct", "llama", request, runs).run
    model, method, head = fresh(run)
    method.attach(model, head)
    scales = {name: group["lr_scale"] for group in method.groups(model) for name, _ in group["named"]}
    assert {scale for name, scale in scales.items() if "lora_B" in name} == {16.0}
    assert {scale for name, scale in scales.items() if "lora_B" not in name} == {1.0}


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 4), (True, 16 / 2)])
def test_lora_scale(rslora: bool, scale: float, tiny_llama: Path, tmp_path: Path) -> None:
    import json

    data = write(tmp_path / "a.jsonl", questions(20))
    run = train(
        tmp_path, tiny_llama, data, method={"name": "lora", "r": 4, "alpha": 16, "rslora": rslora}, train__max_steps=1
    )
    layers = [module for module in run.tuned.model.modules() if hasattr(module, "scaling")]
    assert {layer.scaling["default"] for layer in layers if isinstance(layer.scaling, dict)} == {scale}
    assert json.loads((run.path / "model/adapter_config.json").read_text())["use_rslora"] is rslora
