"""General text and general questions: what a base model could do before it was tuned.

The texts and questions beside this file were written for this project. A question is right if its first option, the
right one, is the likeliest of them (log-probability a byte, so that long options and other tokenizers are no
disadvantage).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunery.data.source import Source
from tunery.errors import DataError

BUILT_IN = "built-in"
LANGUAGES = ("en", "zh")
MOST_BYTES = 1 << 20
"""Of a text that the user names; far more than is measured."""
LEAST_BYTES = 200
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Question:
    """``options[0]`` is right; options go straight behind the question."""

    language: str
    question: str
    options: tuple[str, ...]


def texts(name: str) -> dict[str, str]:
    """The texts of ``eval.general_text``, by language where they are ours, else under ``text``.

    Raises DataError: no such file, no text.
    """
    if name == BUILT_IN:
        return {language: (_HERE / f"{language}.txt").read_text(encoding="utf-8") for language in LANGUAGES}
    path, hint = Path(name), f"name a text file, {BUILT_IN}, or null for none (eval.general_text)"
    if not path.is_file():
        raise DataError("no such file of general text", hint, name)
    try:
        with Source(name, path).open() as stream:
            raw = stream.read(MOST_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", hint, name) from None
    text = raw.decode("utf-8", "replace")
    if text.count("\N{REPLACEMENT CHARACTER}") > len(text) / 20 or "\0" in text:
        raise DataError("not a text file", hint, name)
    if len(text.strip().encode()) < LEAST_BYTES:
        raise DataError("too little general text to measure anything", hint, name)
    return {"text": text}


def questions() -> list[Question]:
    """The general questions, both languages."""
    lines = (_HERE / "probes.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Question(row["language"], row["question"], tuple(row["options"])) for row in rows]
