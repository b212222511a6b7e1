"""Several runs over one base: its weights are in memory once, and no run sees another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from small import labelled, lively, one_thread, questions, train, write  # noqa: F401
from tunery.generate.engine import Sampling, generate
from tunery.models import quantise, shared_lora, weights
from tunery.models.shared_lora import SharedLora
from tunery.run import build
from tunery.run.run import Run
from tunery.run.several import Several

TRAINED = {
    "lora": {}, "prefix": {}, "prompt": {}, "p_tuning": {}, "adapter": {}, "ia3": {}, "bitfit": {"method__norms": True},
    "freeze": {"method__layers": 1}, "full": {}, "adalora": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each method over one base."""
    folder = tmp_path_factory.mktemp("several")
    base = lively(tiny_llama, folder / "base")
    data = write(folder / "rows.jsonl", questions(16))
    settings = {"task": "instruct", "train__max_steps": 2, "train__lr": 0.02, "eval__baselines": False}
    return {
        name: train(folder / "runs", base, data, method=name, run__name=name, **settings, **more).path
        for name, more in TRAINED.items()
    }


def text(tuned: Any, model: Any = None) -> Any:
    from tunery.protocols import Example, Message

    example = Example("<test>", 1, messages=(Message("user", "parcel 3?"),), text="parcel 3?")
    from tunery.data import soft

    prompt = soft.prompt(tuned.task, example, tuned.tokenizer, 200)
    model = tuned.model if model is None else model
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits
    return generate(model, [prompt], (), Sampling(12)), logits


def pointers(model: torch.nn.Module) -> dict[str, int]:
    return {name: p.data_ptr() for name, p in model.named_parameters()}


def test_one_base_in_memory_and_every_run_as_it_is_alone(runs: dict[str, Path]) -> None:
    several = Several()
    loaded = {name: Run(path) for name, path in runs.items()}
    for run in loaded.values():
        several.load(run)
    base = pointers(next(iter(loaded["lora"].tuned.base.weights.templates.values()))[0])
    before = weights.digest(
        dict(next(iter(loaded["lora"].tuned.base.weights.templates.values()))[0].named_parameters())
    )
    for name, run in loaded.items():
        alone = build.load(run.dir)
        (answer, logits), (expected, reference) = text(run.tuned), text(alone)
        assert answer == expected, name
        assert torch.equal(logits, reference), name
        mine = {k.replace(".base_layer", ""): pointer for k, pointer in pointers(run.tuned.model).items()}
        shared = sum(mine.get(key) == pointer for key, pointer in base.items())
        least = {"full": 0, "bitfit": len(base) - 5, "freeze": len(base) - 12}.get(name, len(base))
        assert shared >= least, f"{name}: {shared} of {len(base)} tensors are the base's"
    template = next(iter(loaded["lora"].tuned.base.weights.templates.values()))[0]
    assert weights.digest(dict(template.named_parameters())) == before, "something wrote into the base"


def test_switching_and_merging_one_run_leaves_the_others(runs: dict[str, Path]) -> None:
    several = Several()
    loaded = {name: Run(runs[name]) for name in ("lora", "bitfit", "ia3", "freeze")}
    for run in loaded.values():
        several.load(run)
    expected = {name: text(run.tuned) for name, run in loaded.items()}
    for name in ("bitfit", "lora"):
        tuned = loaded[name].tuned
        tuned.method.activate(tuned.model, None)
        tuned.method.activate(tuned.model, "default")
        assert torch.equal(text(tuned)[1], expected[name][1])
    tuned = loaded["lora"].tuned
    assert tuned.method.merge(tuned.model) is None
    assert torch.allclose(text(tuned)[1], expected["lora"][1], atol=1e-4)
    for name in ("bitfit", "ia3", "freeze"):
        assert torch.equal(text(loaded[name].tuned)[1], expected[name][1]), name


def test_classifiers_over_one_encoder(tiny_bert: Path, tmp_path: Path) -> None:
    """Two heads of different size and a mean-pooled one: what is new is each run's own."""
    data = write(tmp_path / "rows.jsonl", labelled(16))
    three = write(tmp_path / "three.jsonl", [{**row, "label": str(i % 3)} for i, row in enumerate(labelled(18))])
    settings = {"task": "classify", "train__max_steps": 2, "eval__baselines": False}
    made = [
        train(tmp_path / "runs", tiny_bert, data, method="lora", run__name="a", **settings),
        train(tmp_path / "runs", tiny_bert, three, method="lora", run__name="b", train__seed=7, **settings),
        train(tmp_path / "runs", tiny_bert, data, method="full", run__name="c", **settings),
        train(tmp_path / "runs", tiny_bert, data, method="prefix", run__name="d", task__pooling="mean", **settings),
    ]
    several, texts = Several(), ["great parcel", "awful order"]
    loaded = [Run(run.path) for run in made]
    assert [several.load(run) for run in loaded] == [None] * 4
    for run in loaded:
        assert run.predict(texts) == Run(run.path).predict(texts)
    words = [run.tuned.model.get_input_embeddings() for run in (loaded[0], loaded[1], loaded[3])]
    assert len({module.weight.data_ptr() for module in words}) == 1, "with head and without: the same memory"


def test_a_base_is_given_back_when_nothing_uses_it(runs: dict[str, Path]) -> None:
    import gc
    import weakref

    several = Several()
    run = Run(runs["lora"])
    place = several.load(run)
    gone = weakref.ref(run.tuned.base.weights)
    del run, place
    gc.collect()
    assert gone() is None


# ------------------------------------------------------------------------------------- adapters by row


def adapters(run: Run, count: int) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Copies of a LoRA run with matrices, ranks and scales of their own: name → model alone, its adapter."""
    found = {}
    for i in range(count):
        tuned = build.load(run.dir)
        torch.manual_seed(i)
        for module in tuned.model.modules():
            if hasattr(module, "lora_B"):
                with torch.no_grad():
                    module.lora_B["default"].weight.normal_(0, 0.3)
                module.scaling["default"] = 1.0 + i % 3
        parts = shared_lora.parts(tuned.model)
        assert parts
        found[f"n{i}"] = (tuned.model, parts)
    return found


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2", "tiny_gemma"])
def lora_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lora")
    base = lively(request.getfixturevalue(request.param), folder / "base")
    data = write(folder / "rows.jsonl", questions(12))
    return train(folder / "runs", base, data, method="lora", task="instruct", train__max_steps=1, eval__baselines=False)


def test_each_row_of_a_batch_equals_its_adapter_alone(lora_run: Run) -> None:
    """Logits, with rows of the bare base between them."""
    each = adapters(lora_run, 4)
    tuned = build.load(lora_run.dir)
    base, _ = build.with_head(tuned.base, tuned.task, lora_run.config)
    bare, _ = build.with_head(tuned.base, tuned.task, lora_run.config)
    shared = SharedLora(base)
    for name, (_, parts) in each.items():
        shared.add(name, parts)
    torch.manual_seed(5)
    ids = torch.randint(5, 300, (7, 9))
    for rows in (["n0", "n1", None, "n3", "n1", "n2", None], ["n2"] * 7, [None] * 7, ["n3", None, "n3"], ["n0"] * 2):
        shared.arrange(rows)
        with torch.inference_mode():
            together = base(input_ids=ids[: len(rows)]).logits
            for row, name in enumerate(rows):
                alone = (each[name][0] if name else bare)(input_ids=ids[row : row + 1]).logits[0]
                assert torch.allclose(together[row], alone, atol=2e-4, rtol=1e-4), (rows, row)
    shared.remove("n1")
    shared.arrange(["n3", "n0"])
    with torch.inference_mode():
        found = base(input_ids=ids[:2]).logits[1]
        assert torch.allclose(found, each["n0"][0](input_ids=ids[1:2]).logits[0], atol=2e-4, rtol=1e-4)


def test_adapters_that_no_row_has_are_left_out_in_time(lora_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_lora, "PATIENCE", 3)
    each = adapters(lora_run, 3)
    tuned = build.load(lora_run.dir)
    shared = SharedLora(tuned.base.load("causal_lm")[0])
    for name, (_, parts) in each.items():
        shared.add(name, parts)
    shared.arrange(["n0", "n1", "n2"])
    layer = next(iter(shared.layers.values()))
    wide = len(layer.a)
    for _ in range(6):
        shared.arrange(["n1", "n1"])
    assert len(layer.a) == wide // 3


def test_only_plain_lora_may_share_a_batch(runs: dict[str, Path], tiny_llama: Path, tmp_path: Path) -> None:
    for name, path in runs.items():
        assert (shared_lora.parts(build.load(Run(path).dir).model) is not None) == (name == "lora"), name
    data = write(tmp_path / "rows.jsonl", questions(12))
    for extra in ({"method__dora": True}, {"method__init": "pissa"}, {"method__rslora": True}):
        settings = {"task": "instruct", "train__max_steps": 1, "eval__baselines": False, "model.quantise": None}
        run = train(tmp_path / "runs", tiny_llama, data, method="lora", **extra, **settings)
        assert (shared_lora.parts(run.tuned.model) is None) == ("method__dora" in extra)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_base_is_shared_too(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantised bases need bitsandbytes")
    base = lively(tiny_llama, tmp_path / "base")
    data = write(tmp_path / "rows.jsonl", questions(12))
    settings = {"task": "instruct", "train__max_steps": 1, "train__lr": 0.02, "eval__baselines": False}
    made = [
        train(tmp_path / "runs", base, data, method=method, model__quantise=kind, run__name=method, **settings).path
        for method in ("lora", "ia3")
    ]
    several = Several()
    lora, ia3 = Run(made[0]), Run(made[1])
    place = several.load(lora)
    several.load(ia3)
    expected = {run.path: text(build.load(run.dir)) for run in (lora, ia3)}
    for run in (lora, ia3, lora):
        assert text(run.tuned)[0] == expected[run.path][0]
        assert torch.allclose(text(run.tuned)[1], expected[run.path][1], atol=1e-5)
    layers = [{id(layer) for layer in quantise.layers(run.tuned.model)} for run in (lora, ia3)]
    assert layers[0] == layers[1] and layers[0], "one base in memory"
    assert place is not None and place.group.arrange is not None
    place.enter()
    place.group.arrange([place.adapter])
    assert text(lora.tuned, place.group.model)[0] == expected[lora.path][0]
    assert lora.tuned.method.merge(lora.tuned.model) is None
    assert torch.allclose(text(ia3.tuned)[1], expected[ia3.path][1], atol=1e-5)
    assert text(lora.tuned, place.group.model)[0] == expected[lora.path][0]
