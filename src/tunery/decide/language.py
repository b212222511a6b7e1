"""Does the base model know the language of the data? Its tokenizer tells: what it has pieces for, it was trained on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

ROWS = 500
"""Texts that are looked at."""
LONGEST = 500
"""Characters of each."""
ENTRIES = 8000
"""Entries of the vocabulary that are looked at."""
UNKNOWN = 0.05
"""Share of unknown tokens from which the tokenizer does not know the language."""
PIECES = 0.05
"""Share of the vocabulary that a script other than Latin has, at least, in a model that was trained on it."""
FINE = 0.9
"""Tokens a character (bytes a piece, for scripts without spaces) below which texts are not taken apart."""
LANGUAGES = {
    "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "LATIN": "a Latin script",
    "CYRILLIC": "a Cyrillic script", "ARABIC": "an Arabic script", "DEVANAGARI": "a Devanagari script",
}  # fmt: skip
BASES = {"CJK": "google-bert/bert-base-chinese, hfl/chinese-macbert-base or Qwen/Qwen3-0.6B"}
OTHER = "FacebookAI/xlm-roberta-base or Qwen/Qwen3-0.6B"
"""Bases for what has none of its own in ``BASES``: trained on a hundred languages."""


@dataclass(frozen=True, slots=True)
class Language:
    """What the tokenizer makes of the texts."""

    script: str
    """The first word of the Unicode names of most letters: LATIN, CJK, CYRILLIC, …"""
    language: str
    unknown: float
    """Share of tokens that are the unknown token."""
    tokens_per_character: float
    pieces: float
    """Share of the vocabulary's entries that have a letter of the script."""
    known: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"advice": self.advice}

    @property
    def advice(self) -> str:
        """What to do; empty where the base knows the language."""
        if self.known:
            return ""
        return f"choose a base that knows {self.language}, such as {BASES.get(self.script, OTHER)}"

    def reason(self, base: str) -> str:
        """Why, in words."""
        if self.unknown > UNKNOWN:
            return f"{self.unknown:.0%} of the tokens are unknown to the tokenizer of {base}"
        return (
            f"the tokenizer of {base} needs {self.tokens_per_character:.1f} tokens a character, and {self.pieces:.1%} "
            f"of its vocabulary are for {self.language}"
        )


def look(texts: Sequence[str], tokenizer: Any) -> Language:
    """Texts evenly spread over all of them are tokenised. Texts without letters count as known."""
    chosen = [texts[i * len(texts) // ROWS] for i in range(ROWS)] if len(texts) > ROWS else list(texts)
    chosen = [text[:LONGEST] for text in chosen]
    scripts = Counter(script for text in chosen for character in text if (script := script_of(character)))
    if not scripts:
        return Language("", "no language", 0.0, 0.0, 0.0, True)
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    main = "HIRAGANA" if kana > 0.1 * scripts.total() else scripts.most_common(1)[0][0]
    tokens = [i for text in chosen for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    unknown = sum(i == tokenizer.unk_token_id for i in tokens) / max(len(tokens), 1)
    density = len(tokens) / max(sum(len(text) for text in chosen), 1)
    pieces = _pieces(tokenizer, main)
    foreign = main != "LATIN" and pieces < PIECES and density > FINE
    name = LANGUAGES.get(main, f"the script {main.title()}")
    return Language(main, name, unknown, density, pieces, not (foreign or unknown > UNKNOWN))


@cache
def script_of(character: str) -> str:
    """``LATIN`` for "a", ``CJK`` for "好", empty for what is no letter.

    >>> script_of("ж"), script_of("7")
    ('CYRILLIC', '')
    """
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else ""


def _pieces(tokenizer: Any, script: str) -> float:
    """Share of the vocabulary with a letter of the script; entries evenly spread over it."""
    size = len(tokenizer)
    ids = range(0, size, max(size // ENTRIES, 1))
    texts = tokenizer.batch_decode([[i] for i in ids])
    return sum(any(script_of(c) == script for c in text) for text in texts) / len(ids)
