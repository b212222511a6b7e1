"""Choosing and computing numbers by name."""

from __future__ import annotations

import pytest

from tunery import registry
from tunery.errors import ConfigError
from tunery.protocols import Scored
from tunery.scoring import check, metric_of, number_names, score

PROMISED = {
    *("accuracy", "f1_weighted", "f1_macro", "precision_macro", "recall_macro", "loss", "perplexity"),
    *("rouge1", "rouge2", "rougeL", "bleu", "exact_match", "f1", "contains"),
}
"""The names docs and scripts rely on."""


def test_every_number_belongs_to_one_metric() -> None:
    names = number_names()
    declared = [number for name in registry.names("metric") for number in registry.get("metric", name).numbers]
    assert list(names.values()) == declared and len(names) == len(declared)
    assert set(names) >= PROMISED
    for name in names:
        assert name in {number.name for number in metric_of(name).numbers}


def test_a_name_reported_twice_is_a_programming_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunery import scoring

    accuracy = registry.get("metric", "accuracy")
    monkeypatch.setattr(registry.get("metric", "contains"), "numbers", accuracy.numbers)
    with pytest.raises(TypeError, match=r"'accuracy'.*both"):
        scoring._metrics_by_number.__wrapped__()


def test_only_what_was_asked_in_that_order() -> None:
    scored = Scored(predictions=["a", "b"], references=["a", "a"], loss_sum=2.0, loss_count=2)
    result = score(scored, ["f1_macro", "loss", "accuracy"], ("classes", "loss"))
    assert list(result) == ["f1_macro", "loss", "accuracy"]
    assert result == pytest.approx({"f1_macro": 1 / 3, "loss": 1.0, "accuracy": 0.5})
    assert score(scored, [], ("classes",)) == {}


def test_each_metric_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rouge = registry.get("metric", "rouge")
    calls = []

    def compute(self: object, scored: Scored) -> dict[str, float]:
        calls.append(scored)
        return {"rouge1": 0.1, "rouge2": 0.2, "rougeL": 0.3}

    monkeypatch.setattr(rouge, "compute", compute)
    score(Scored(predictions=["a"], references=[("a",)]), ["rouge1", "exact_match", "rougeL"], ("text",))
    assert len(calls) == 1


def test_what_cannot_be_computed_is_absent() -> None:
    scored = Scored(predictions=["a"], references=[("a",)], contains=[()])
    assert score(scored, ["contains", "exact_match", "loss"], ("text", "loss")) == {"exact_match": 1.0}


def test_an_unknown_number_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'rougeL'") as caught:
        score(Scored(), ["rouge_l"], ("text",))
    assert caught.value.where == "eval.metrics" and caught.value.code == 2


def test_a_number_of_another_kind_says_which_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        check(["accuracy", "rouge1"], ("classes", "loss"))
    assert "'rouge1' does not fit" in caught.value.problem
    fitting = caught.value.hint.removeprefix("fitting: ").split(", ")
    assert "accuracy" in fitting and "loss" in fitting and "bleu" not in fitting
