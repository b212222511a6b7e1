"""Words of a sentence and the text they came from: scripts with spaces between words, and those without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

CJK = "\u3001-\u3011\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U000323af"
"""Han, kana and their full-width punctuation, as the inside of a regular expression's ``[...]``."""
_ALONE = re.compile(f"[{CJK}]")
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_LETTERS = rf"[^\W{CJK}]+"
_PIECE = re.compile(rf"\[[A-Z]{{1,20}}\]|[{CJK}]|{_LETTERS}(?:['’]{_LETTERS})*|\s+|[^\w\s]")


def unspaced(word: str) -> bool:
    """Whether a word begins with a character that is written without spaces around it."""
    return _ALONE.match(word) is not None


def joined(words: Sequence[str]) -> list[str]:
    """Words with the space before them that the text has: the first has none, nor one beside a CJK character.

    >>> joined(["I", "love", "北", "京", "!"])
    ['I', ' love', '北', '京', '!']
    """
    found = list(words[:1])
    for before, word in pairwise(words):
        apart = not (unspaced(before[-1]) or unspaced(word))
        found.append(f" {word}" if apart else word)
    return found


def split(text: str) -> tuple[str, ...]:
    """Words of a text, cut at white space; CJK characters are words of their own.

    >>> split("I love 北京!")
    ('I', 'love', '北', '京', '!')
    """
    return tuple(_WORD.findall(text))


def pieces(text: str) -> list[str]:
    """A text cut into words, punctuation marks and white space; joined again they are the text. ``[URL]`` and the like
    are marks.

    >>> pieces("I don't, 北京。")
    ['I', ' ', "don't", ',', ' ', '北', '京', '。']
    """
    return _PIECE.findall(text)


def places(parts: Sequence[str]) -> list[int]:
    """Which of the pieces are words.

    >>> places(["I", " ", "do", "."])
    [0, 2]
    """
    return [place for place, part in enumerate(parts) if part[0].isalnum()]


def without(parts: Sequence[str], gone: set[int]) -> str:
    """The text without some of its pieces, and without the white space that would stand double or at the ends.

    >>> without(["a", " ", "b", " ", "c", "."], {0, 4})
    'b.'
    """
    kept: list[str] = []
    for place, part in enumerate(parts):
        after_space = bool(kept) and kept[-1].isspace()
        if place in gone or (after_space and part.isspace()):
            continue
        if after_space and place - 1 in gone and not part[0].isalnum():
            kept.pop()  # a mark that stood at the word that is gone
        kept.append(part)
    return "".join(kept).strip()
