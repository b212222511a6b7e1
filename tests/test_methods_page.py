"""What ``tunery methods`` and the page on methods say comes from the methods and from the common suite's results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import suite_cells
from tunery import registry
from tunery.cli import main

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import methods as page  # noqa: E402

OK = {"status": "ok", "trainable": 1}
WORDS = page.WORDS["en"]


def refused(reason: str) -> dict[str, Any]:
    return {"status": "refused", "reason": reason}


CELLS: page.Cells = {
    ("ia3", "tag", "bert"): OK,
    ("ia3", "tag", "t5"): refused("t5 has no head; use another"),
    ("ia3", "lm", "gpt2"): OK,
    ("ia3", "lm", "llama"): OK,
    ("bias", "tag", "bert"): OK,
    ("bias", "tag", "t5"): refused("t5 has no head; use another"),
    ("bias", "lm", "gpt2"): OK,
    ("bias", "lm", "llama"): refused("LlamaForCausalLM has no biases; use method=ia3"),
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", registry.names("method"))
def test_a_method_is_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    method = registry.get("method", name)
    found = json.loads(run(capsys, "methods", name, "--json"))
    assert found["paper"] == method.paper
    assert {row["key"] for row in found["config"]} == {f"method.{key}" for key in method.Config.model_fields} - {
        "method.name"
    }
    assert all(row["description"] for row in found["config"])
    encoder = next(row for row in found["learning_rates"] if row["family"] == "encoder")
    assert encoder["lr"] == method(method.Config()).default_lr(encoder["parameters"], "encoder")
    text = run(capsys, "methods", name)
    for each in [method.summary, method.paper, method.saves, *(row["key"] for row in found["config"])]:
        assert each in text
    for refusal in found["refuses"]:
        assert refusal["reason"] in text


def test_refusals_stand_under_their_reason_and_not_where_nothing_works() -> None:
    reason = "the model has no biases; use method=ia3"  # of whatever class
    assert page.refusals(CELLS) == {"ia3": [], "bias": [{"tasks": ["lm"], "models": ["llama"], "reason": reason}]}
    two = {**CELLS, ("bias", "tag", "bert"): refused("BertForTokenClassification has no biases; use method=ia3")}
    (one,) = page.refusals(two)["bias"]
    assert one["tasks"] == ["tag", "lm"]
    assert one["models"] == ["bert", "llama"]


def test_the_matrix_counts_what_could_work() -> None:
    lines = page.matrix(CELLS, WORDS).splitlines()
    assert lines[0] == "| method | `tag` | `lm` |"
    assert lines[2:] == ["| `ia3` | all 1 | all 2 |", "| `bias` | all 1 | 1 of 2 |"]
    broken = {**CELLS, ("ia3", "lm", "gpt2"): {"status": "failed", "checks": ["merges"]}}
    assert "| `ia3` | all 1 | 1 fail |" in page.matrix(broken, WORDS)
    assert page.task_reasons(CELLS, WORDS).splitlines()[2:] == ["| `tag` | t5 | … has no head; use another |"]
    assert page.count(CELLS, WORDS) == "8: 5 work, 3 are refused, 0 fail\n"


def test_the_published_results_are_those_of_every_cell() -> None:
    published = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert published.keys() == {str(cell) for cell in suite_cells.cells()}


def test_stale_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setattr(page, "REFUSALS", tmp_path / "refusals.json")
    monkeypatch.setattr(page, "PAGES", {"en": tmp_path / "methods.md"})
    (tmp_path / "methods.md").write_text(
        "before\n<!-- suite:cells -->\nold\n<!-- /suite -->\nafter\n", encoding="utf-8"
    )
    assert page.main(["--check"]) == 1
    assert "methods.md: stale" in capsys.readouterr().out
    assert page.main([]) == 0
    assert page.main(["--check"]) == 0
    text = (tmp_path / "methods.md").read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
