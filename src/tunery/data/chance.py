"""What the steps share: how many of some places, and words that turn a meaning round."""

from __future__ import annotations

import random
from collections.abc import Sequence

_NEGATIONS = """
no not nor never none neither nothing nobody nowhere without hardly cannot 不 没 沒 无 無 未 别 別 莫 非 勿 否
"""
NEGATIONS = frozenset(_NEGATIONS.split())


def negates(word: str) -> bool:
    """Whether taking the word out could turn the meaning, and with it the label, round.

    >>> [negates(word) for word in ("Not", "don't", "knot", "不")]
    [True, True, False, True]
    """
    word = word.casefold().replace("’", "'")
    return word in NEGATIONS or word.endswith("n't")


def some(places: Sequence[int], share: float, pick: random.Random) -> list[int]:
    """A share of the places, one at least where there is one, in order."""
    count = min(len(places), max(1, round(share * len(places))))
    return sorted(pick.sample(places, count))
