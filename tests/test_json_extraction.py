"""Fields as JSON: the two numbers, the example, and a run that reports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from small import lively, one_thread, train, write  # noqa: F401
from tunery import config as configuration
from tunery import registry
from tunery.config import DataConfig
from tunery.metrics._json import parsed
from tunery.protocols import Scored
from tunery.run.dataset import load_dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TRUE = '{"id": 7, "to": {"city": "Rome"}, "items": ["a", "b"]}'  # four pairs


def compute(name: str, prediction: str, *references: str) -> float:
    scored = Scored(predictions=[prediction], references=[references])
    return registry.get("metric", name)().compute(scored)[name]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (TRUE, 1.0),
        (f" {TRUE}\n", 1.0),
        ("{}", 1.0),
        ("{'id': 7}", 0.0),
        ('{"id": 7', 0.0),
        (f"```json\n{TRUE}\n```", 0.0),
        (f"{TRUE} {TRUE}", 0.0),
        ("[1]", 0.0),
        ("7", 0.0),
        ("null", 0.0),
        ('{"id": NaN}', 0.0),
        ('{"id": 1, "id": 2}', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_only_an_object_alone_is_valid(text: str, valid: float) -> None:
    assert compute("json_valid", text, TRUE) == valid


@pytest.mark.parametrize(
    ("text", "f1"),
    [
        (TRUE, 1.0),
        ('{"items": ["b", "a"], "to": {"city": "Rome"}, "id": 7.0}', 1.0),
        ('{"id": "7", "to": {"city": " Rome "}, "items": ["a", "b"]}', 2 * 3 / 8),
        ('{"id": 7}', 2 * 1 / (1 + 4)),
        ('{"id": 7, "city": "Rome"}', 2 * 1 / (2 + 4)),
        ('{"id": 7, "to": {"city": "Rome"}, "items": ["a", "a"]}', 2 * 3 / 8),
        ("{}", 0.0),
        ("no JSON", 0.0),
        ('{"id": true, "to": null, "items": []}', 0.0),
    ],
)
def test_pairs_are_counted_by_hand(text: str, f1: float) -> None:
    assert compute("field_f1", text, TRUE) == pytest.approx(f1)


def test_pairs_are_counted_together_and_the_nearest_reference_counts() -> None:
    scored = Scored(
        predictions=['{"a": 1, "b": 2, "c": 3}', "broken", '{"a": "真"}'],
        references=[('{"a": 1}', '{"a": 1, "b": 2}'), ('{"a": 1}',), ("text", '{"a": "真"}')],
    )
    metric = registry.get("metric", "field_f1")()
    assert metric.compute(scored) == {"field_f1": pytest.approx(2 * 3 / (3 + 0 + 1 + 2 + 1 + 1))}
    assert metric.compute(Scored(predictions=["x"], references=[("no JSON",)])) == {}
    assert metric.compute(Scored(predictions=["{}"], references=[("{}",)])) == {"field_f1": 1.0}


def test_the_example_data_are_messages_with_json_answers() -> None:
    data = DataConfig(train=str(EXAMPLES / "fields.jsonl"))
    found = load_dataset(data, None, 1)
    assert (found.format, found.task) == ("pairs", "instruct")
    examples = [example for split in found.splits.values() for example in split]
    assert len({example.input_text for example in examples}) == len(examples) >= 40
    for example in examples:
        value: dict[str, Any] | None = parsed(example.messages[-1].content)
        assert value is not None
        assert list(value) == ["intent", "product", "quantity", "name"]
        assert value["intent"] in ("order", "return", "repair", "complaint", "question")
        assert value["name"] is None or value["name"] in example.input_text


def test_the_example_configuration_is_read() -> None:
    if "prefix" not in registry.names("method"):
        pytest.skip("no method prefix yet")
    config = configuration.load(EXAMPLES / "extract_fields.yaml")
    assert config.method_name == "prefix"
    assert config.eval.metrics is not None
    assert {"json_valid", "field_f1"} <= set(config.eval.metrics)


def test_a_run_reports_both(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{w}?", "response": json.dumps({"a": w}, ensure_ascii=False)} for w in ("good", "bad", "北京", "7")
    ]
    data = write(tmp_path / "a.jsonl", rows)
    run = train(
        tmp_path, lively(tiny_llama, tmp_path / "model"), data, method="full", data__validation=str(data),
        train__lr=1e-2, train__max_steps=60, train__patience=None, eval__every=60, eval__max_new_tokens=24,
        eval__generate_rows=4, eval__metrics=["json_valid", "field_f1"],
    )  # fmt: skip
    assert run.manifest["base_metrics"]["json_valid"] == 0.0
    assert run.metrics["json_valid"] == 1.0
    assert run.metrics["field_f1"] >= 0.75
    assert "loss" in run.metrics
