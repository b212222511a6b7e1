"""Uneven classes: weights in the training loss, and the mean of the classes as the number that is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from small import ROWS, labelled, log, losses, one_thread, tagged, train, weights_of, write  # noqa: F401
from tunery import config, registry
from tunery.data.balance import positive_weights, ratio, weights
from tunery.errors import ConfigError
from tunery.protocols import Example
from tunery.run.check import check
from tunery.run.run import Run


def uneven(count: int = 40, every: int = 8) -> list[dict[str, Any]]:
    """One bad row for seven good ones."""
    good = [row for row in labelled(2 * count) if row["label"] == "good"]
    bad = [row for row in labelled(2 * count) if row["label"] == "bad"]
    return [bad[i] if i % every == 0 else good[i] for i in range(count)]


def several_uneven(count: int = 40) -> list[dict[str, Any]]:
    rows = uneven(count)
    return [{**row, "label": ["all"] if i % 2 else [row["label"], "all"]} for i, row in enumerate(rows)]


def examples(rows: list[dict[str, Any]]) -> list[Example]:
    def label(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return [Example("a", i + 1, text=row["text"], label=label(row["label"])) for i, row in enumerate(rows)]


def test_weights_of_classes() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 6 + ["b"] * 2 + ["c"]
    counts = {"a": 6, "b": 2, "c": 1}
    theirs = compute_class_weight("balanced", classes=np.array([*"abc"]), y=labels)
    assert list(weights(counts, [*"abc"]).values()) == pytest.approx(list(theirs))
    found = weights(counts, [*"abcd"])
    assert found["d"] == 1 and sum(found[label] for label in labels) == pytest.approx(len(labels))
    assert positive_weights({"a": 6, "b": 2, "all": 8}, ["a", "b", "all", "none"], 8) == {
        "a": pytest.approx(1 / 3),
        "b": 3,
        "all": 1 / 8,
        "none": 8,
    }
    assert ratio(counts) == 6 and ratio({}) == 1


@pytest.mark.parametrize("name", registry.names("task"))
def test_tasks_weigh_their_classes_or_refuse(name: str) -> None:
    task = registry.get("task", name)(registry.config_class("task", name)())
    if name not in ("classify", "cloze", "tag"):
        with pytest.raises(ConfigError, match=rf"train.class_weights: task {name} has no classes to weigh → leave"):
            task.balance()
        return
    if name == "tag":
        task.fit([Example("a", 1, words=(*"abcd",), tags=("O", "O", "O", "B"))])
        task.balance()
        assert task.class_weights == {"O": pytest.approx(2 / 3), "B": 2}
        return
    task.fit(examples(uneven()))
    task.balance()
    assert task.class_weights == {"bad": 4, "good": pytest.approx(4 / 7)}


@pytest.mark.parametrize("name", ["classify", "cloze"])
def test_the_mean_of_the_classes_comes_first(name: str) -> None:
    task = registry.get("task", name)(registry.config_class("task", name)())
    task.fit(examples(uneven()))
    assert task.metrics[0] == task.monitor == "f1_macro" and "accuracy" in task.metrics
    assert "35 of label 'good', 5 of 'bad'" in task.notes[0]
    again = registry.get("task", name)(registry.config_class("task", name)())
    again.restore(task.state())
    assert again.metrics == task.metrics and again.monitor == "f1_macro"
    even = registry.get("task", name)(registry.config_class("task", name)())
    even.fit(examples(uneven(every=4)))  # three to one
    assert even.monitor == "accuracy" and even.metrics[0] == "accuracy" and not even.notes
    old = {key: value for key, value in task.state().items() if key != "uneven"}
    even.restore(old)
    assert even.monitor == "accuracy", "a run of an earlier version"


def test_several_labels_a_row() -> None:
    task = registry.get("task", "classify")(registry.config_class("task", "classify")())
    task.fit(examples(several_uneven()))
    task.balance()
    assert task.metrics[0] == task.monitor == "f1_macro_labels"
    assert task.class_weights == {"all": 1 / 40, "bad": 7, "good": pytest.approx(25 / 15)}


def test_the_loss_is_weighted_in_training_alone() -> None:
    task = registry.get("task", "classify")(registry.config_class("task", "classify")())
    task.fit(examples(uneven()))
    task.balance()
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 1, 0, 1, 1])

    class Model(torch.nn.Module):
        def forward(self, **_: Any) -> Any:
            return type("Out", (), {"logits": logits})()

    model = Model()
    batch = {"input_ids": torch.ones(6, 3, dtype=torch.long), "attention_mask": torch.ones(6, 3), "target": target}
    each = F.cross_entropy(logits, target, reduction="none")
    weighted, count, _ = task.loss(model.train(), batch)
    by_row = torch.tensor([task.class_weights[task.labels[i]] for i in target.tolist()])
    assert float(weighted) == pytest.approx(float((each * by_row).sum()), rel=1e-5) and int(count) == 6
    assert float(task.loss(model.eval(), batch)[0]) == pytest.approx(float(each.sum()), rel=1e-5)


@pytest.mark.parametrize("rows", [uneven, several_uneven])
def test_accumulation_equals_one_large_batch(rows: Any, tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", rows(40))
    settings: dict[str, Any] = {"method": "full", "train__max_steps": 4, "train__lr": 1e-3, "train__dropout": 0.0}
    settings |= {"train__class_weights": "balanced", "task": "classify", "train__patience": None}
    whole = train(tmp_path, tiny_bert, data, **settings, train__batch_size=8)
    for changes in (
        {"train__batch_size": 2, "train__accumulate": 4},
        {"train__batch_size": 8, "train__micro_tokens": 60},
    ):
        cut = train(tmp_path, tiny_bert, data, **settings, **changes)
        assert losses(cut) == pytest.approx(losses(whole), rel=1e-4), changes
        assert apart(cut, whole) < 5e-5, changes
    plain = train(tmp_path, tiny_bert, data, **{**settings, "train__class_weights": None})
    assert apart(plain, whole) > 1e-4, "the weights do something"


def apart(one: Run, other: Run) -> float:
    first, second = weights_of(one.path / "model"), weights_of(other.path / "model")
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_run_says_and_records_it(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", uneven())
    run = train(tmp_path, tiny_bert, data, train__max_steps=2, train__class_weights="balanced")
    assert run.manifest["class_weights"]["bad"] > 3 and next(iter(run.metrics)) == "f1_macro"
    assert all("f1_macro" in record["validation"] for record in log(run) if "validation" in record)
    said = (run.path / "log.txt").read_text()
    assert "f1_macro is shown first" in said and "weights of the classes in training: bad" in said
    assert next(iter(run.evaluate(str(data))["metrics"])) == "f1_macro"
    found = check(config.load(None, [f"data.train={data}", f"model={tiny_bert}", "train.class_weights=balanced"]))
    assert any("weights of the classes in training: bad" in note for note in found["notes"])


def test_a_tagger_weighs_its_tags(tiny_bert: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "t.jsonl", tagged(16))
    run = train(tmp_path, tiny_bert, data, train__max_steps=2, train__class_weights="balanced")
    weighed = run.manifest["class_weights"]
    assert weighed["O"] < weighed["B-BAD"]


def test_tasks_without_classes_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "q.jsonl", ROWS["instruct"](8))
    with pytest.raises(ConfigError, match="task instruct has no classes to weigh"):
        train(tmp_path, tiny_llama, data, train__class_weights="balanced")
    with pytest.raises(ConfigError, match=r"train\.class_weights: balanced or null is needed, not 'balance'"):
        config.load(None, ["train.class_weights=balance"])
