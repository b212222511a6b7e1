"""A text with some words in another order."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from tunery.data import chance
from tunery.protocols import Augmenter


class Swap(Augmenter):
    """Random swap (Wei & Zou 2019, arXiv:1901.11196), but of neighbours, so that what belongs together stays
    together; negations keep their places, as the label could hang on them.
    """

    class Config(Augmenter.Config):
        name: Literal["swap"] = "swap"
        share: float = Field(0.1, gt=0, le=1, description="of the words")

    summary = "some words change places with the next one"

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.words import pieces, places

        parts = pieces(text)
        words = places(parts)
        able = [n for n in range(len(words) - 1) if not any(chance.negates(parts[place]) for place in words[n : n + 2])]
        for number in chance.some(able, self.config.share, pick):
            one, other = words[number], words[number + 1]
            parts[one], parts[other] = parts[other], parts[one]
        return "".join(parts) if able else None
