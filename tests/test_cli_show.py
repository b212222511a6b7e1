"""``tunery show``: the text of the tokens is the text of the row, whatever the tokenizer does to characters."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import verbs
from small import documents, labelled, write
from tunery import config
from tunery.cli.show import CLOSE, OPEN, _text
from tunery.protocols import IGNORE, Encoded
from tunery.run.show import BROKEN, show, tokens

ROWS = [
    {"question": "你好，请问怎么退货？", "answer": "您可以在三十天内退货。😀 龘靐"},
    {"question": "Where is\nmy parcel?", "answer": "It arrives\non Monday."},
    {"question": "c", "answer": "d"},
    {"question": "e", "answer": "f"},
]


def looked(file: Path, model: Path, *overrides: str, rows: int = 2, split: str = "train") -> dict[str, Any]:
    return show(config.load(None, [f"data.train={file}", f"model={model}", *overrides]), rows, split)


def test_chinese_is_whole(tmp_path: Path, tiny_llama: Path) -> None:
    file = write(tmp_path / "t.jsonl", ROWS)
    other = write(tmp_path / "v.jsonl", ROWS[2:])
    found = looked(file, tiny_llama, f"data.validation={other}")
    assert len(found["rows"]) == 2
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for row, given in zip(found["rows"], ROWS, strict=False):
        text = "".join(token["text"] for token in row["tokens"])
        assert text == tokenizer.decode([token["id"] for token in row["tokens"]])
        assert BROKEN not in text and given["question"] in text
        learnt = "".join(token["text"] for token in row["tokens"] if token["supervised"])
        assert learnt == given["answer"] + "<|im_end|>"
        assert row["supervised"] == sum(token["supervised"] for token in row["tokens"])
        assert {token["text"] for token in row["tokens"] if token["special"]} == {"<|im_start|>", "<|im_end|>"}
    assert found["rows"][0]["where"] == f"{file}:1" and found["rows"][0]["target"] is None
    several = [token["text"] for token in found["rows"][0]["tokens"] if token["text"] == ""]
    assert several, "the characters of this text take several tokens each"


def test_what_a_person_sees(tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", ROWS)
    answer = verbs.call(
        capsys, "show", f"data.train={file}", f"data.validation={file}", f"model={tiny_llama}", "--rows", "2"
    )
    assert answer.code == 0 and "\x1b" not in answer.out
    assert f"⟦{ROWS[0]['answer']}<|im_end|>⟧⏎" in answer.out and "Where is⏎\nmy parcel?" in answer.out
    assert "⟦It arrives⏎\non Monday.<|im_end|>⟧" in answer.out
    as_json = verbs.call(
        capsys, "show", f"data.train={file}", f"data.validation={file}", f"model={tiny_llama}", "--json"
    )
    assert len(as_json.value["rows"]) == 3
    assert set(as_json.value["rows"][0]) >= {"where", "tokens", "target", "truncated"}


def test_colours() -> None:
    made = [
        {"id": 1, "text": "a\n", "supervised": False, "special": False},
        {"id": 2, "text": "b\nc", "supervised": True, "special": False},
        {"id": 3, "text": "<end>", "supervised": True, "special": True},
    ]
    coloured = _text(made, True)
    assert "\x1b[30m\x1b[42m\x1b[1mb⏎\x1b[0m\n\x1b[30m\x1b[42m\x1b[1mc\x1b[0m" in coloured
    assert OPEN not in coloured and all(line.count("\x1b[0m") for line in coloured.splitlines())
    assert _text(made, False) == f"a⏎\n{OPEN}b⏎\nc<end>{CLOSE}"


def test_classification(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", [{"text": "The film is good, great", "label": "good"}, *labelled(20)])
    found = looked(file, tiny_bert, f"data.validation={file}", rows=1)["rows"][0]
    assert found["target"] == "good" and all(token["supervised"] is None for token in found["tokens"])
    text = "".join(token["text"] for token in found["tokens"])
    assert text.startswith("[CLS] the film is good") and text.endswith("[SEP]")
    told = verbs.call(
        capsys, "show", f"data.train={file}", f"model={tiny_bert}", "--rows", "1", "--split", "validation"
    )
    assert "target: " in told.out and OPEN not in told.out


def test_windows_and_truncated_rows(tmp_path: Path, tiny_llama: Path) -> None:
    file = write(tmp_path / "t.jsonl", [{"text": "the parcel arrives on Monday " * 20}, *documents(3)])
    parts = looked(file, tiny_llama, "task=lm", "data.max_length=16", f"data.validation={file}", rows=3)["rows"]
    assert len(parts) == 3 and {part["where"] for part in parts} == {f"{file}:1"}
    long = write(tmp_path / "q.jsonl", [{"question": "a", "answer": "三十天" * 20}] * 2)
    cut = looked(long, tiny_llama, "data.max_length=20", f"data.validation={long}", rows=1)["rows"][0]
    assert cut["truncated"] and len(cut["tokens"]) == 20


def test_bad_rows_are_passed_over(tmp_path: Path, tiny_bert: Path) -> None:
    file = write(tmp_path / "t.jsonl", ["not json", *labelled(20)])
    found = looked(file, tiny_bert, f"data.validation={file}", rows=1)
    assert found["rows"][0]["where"] == f"{file}:2"


def test_refusals(tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "t.jsonl", labelled(20))
    answer = verbs.call(capsys, "show", f"data.train={file}", f"model={tiny_bert}", "--split", "test", "--json")
    assert answer.code == 2 and "data.test=FILE" in answer.error["hint"]
    assert verbs.call(capsys, "show", f"data.train={file}", "--rows", "0", "--json").code == 2
    assert verbs.call(capsys, "show", f"data.train={file}", "--split", "dev", "--json").code == 2


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_roberta", "tiny_t5"])
def test_any_text_in_any_mask(model: str, request: pytest.FixtureRequest) -> None:
    """Byte-level tokenizers: the pieces joined are the text, where no character is cut by the mask."""
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(model))
    pick = random.Random(1)
    letters = ["a", " ", "\n", "é", "中", "文", "😀", "👩‍💻", BROKEN, "́", "ก็", "  ", "ab"]
    for _ in range(50):
        text = "".join(pick.choices(letters, k=pick.randint(1, 20)))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        made = tokens(Encoded(ids=ids), tokenizer)
        assert "".join(token["text"] for token in made) == text
        labels = [i if pick.random() < 0.5 else IGNORE for i in ids]
        masked = tokens(Encoded(ids=ids, labels=labels), tokenizer)
        assert [token["id"] for token in masked] == ids
        assert [token["supervised"] for token in masked] == [label != IGNORE for label in labels]
