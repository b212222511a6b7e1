"""The real data sets beside the repository are read completely and recognised."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import tiny
from tunery import config
from tunery.config import DataConfig
from tunery.data.read import read
from tunery.protocols import Row
from tunery.run.check import check
from tunery.run.dataset import load_dataset
from tunery.run.sniff import sniff

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
MANIFEST = FOLDER / "manifest.json"
FILES = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.is_file() else []
SETS = sorted({Path(entry["path"]).parent.name for entry in FILES})
FORMATS = {  # by the end of a set's name
    "_topic": "labels",
    "_sentiment": "labels",
    "_intent": "labels",
    "_fewshot": "labels",
    "_question_type": "labels",
    "_summarisation": "pairs",
    "_generation": "pairs",
    "_translation": "pairs",
    "_instruct": "alpaca",
    "_chat": "chat",
    "_lm": "text",
    "_extractive_qa": "squad",
    "_math_qa": "qa",
    "_en_qa": "qa",
    "_preference": "preference",
}

pytestmark = pytest.mark.skipif(not FILES, reason=f"no shared data at {FOLDER}")


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: entry["path"])
def test_every_row_is_read(entry: dict) -> None:
    records = list(read(FOLDER / entry["path"]))
    assert all(isinstance(record, Row) for record in records)
    assert len(records) == entry["rows"]
    assert [record.line for record in records] == list(range(1, entry["rows"] + 1))


@pytest.mark.parametrize("name", SETS)
def test_every_set_becomes_examples(name: str) -> None:
    expected = next(known for end, known in FORMATS.items() if name.endswith(end))
    splits = ("train", "validation", "test")
    found = load_dataset(DataConfig(**{s: str(FOLDER / name / f"{s}.jsonl") for s in splits}), None, 1)
    assert found.format == expected
    rows = {Path(entry["path"]).stem: entry["rows"] for entry in FILES if Path(entry["path"]).parent.name == name}
    # none of these sets has the same row in two splits; some have nearly the same one
    given = Counter(entry.split for entry in found.ledger.entries())
    assert given == rows
    dropped = Counter(entry.split for entry in found.ledger.entries() if entry.bucket == "dropped:near_leak")
    assert {split: len(examples) + dropped[split] for split, examples in found.splits.items()} == rows
    assert dropped.total() < max(50, 0.03 * sum(rows.values()))
    assert found.ledger.rows == sum(rows.values())
    assert all(example.input_text for examples in found.splits.values() for example in examples[:100])


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_checked_with_no_more_than_its_path(
    name: str, tiny_bert: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    """The validation rows: sniffed, split, fitted, encoded; every row in exactly one bucket."""
    path = FOLDER / name / "validation.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if '"label"' not in lines[0]:
        path = tmp_path / "few.jsonl"
        path.write_text("".join(lines[:12]), encoding="utf-8")
        lines = lines[:12]
    sniffed = sniff(config.build({"data": {"train": str(path)}}))
    assert not sniffed.bad and any(note.startswith("format ") for note in sniffed.dataset.notes)
    assert any("learns the chosen answers" in note for note in sniffed.dataset.notes) == name.endswith("_preference")
    model = tiny_bert if sniffed.task.output == "logits" else tiny_llama
    if model is tiny_llama:  # its tokens are short ones
        model = Path(shutil.copytree(tiny_llama, tmp_path / "llama"))
        tiny.edit_config(model, max_position_embeddings=8192)
    given = {"data": {"train": str(path), "max_length": 8192 if sniffed.task.output == "text" else None}}
    found = check(config.build(given | {"model": str(model)}))
    assert found["rows_read"] == len(lines) == found["used"] + sum(found["dropped"].values())
    assert found["task"] == sniffed.task.name and not found["dropped"].get("bad")
