"""Words of a sentence and the text they came from: scripts with spaces between words, and those without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

_CJK = "\u3001-\u3011\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U000323af"
"""Han, kana and their full-width punctuation, as the inside of a regular expression's ``[...]``."""
_ALONE = re.compile(f"[{_CJK}]")
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")


def joined(words: Sequence[str]) -> list[str]:
    """Words with the space before them that the text has: the first has none, nor one beside a CJK character.

    >>> joined(["I", "love", "北", "京", "!"])
    ['I', ' love', '北', '京', '!']
    """
    found = list(words[:1])
    for before, word in pairwise(words):
        apart = not (_ALONE.match(before[-1]) or _ALONE.match(word[0]))
        found.append(f" {word}" if apart else word)
    return found


def split(text: str) -> tuple[str, ...]:
    """Words of a text, cut at white space; CJK characters are words of their own.

    >>> split("I love 北京!")
    ('I', 'love', '北', '京', '!')
    """
    return tuple(_WORD.findall(text))
