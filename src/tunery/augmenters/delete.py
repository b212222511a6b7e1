"""A text with some words left out."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from tunery.data import chance
from tunery.protocols import Augmenter


class Delete(Augmenter):
    """Random deletion (Wei & Zou 2019, arXiv:1901.11196); negations stay, as the label could hang on them."""

    class Config(Augmenter.Config):
        name: Literal["delete"] = "delete"
        share: float = Field(0.1, gt=0, lt=1, description="of the words")

    summary = "some words less; negations stay"

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.words import pieces, places, without

        parts = pieces(text)
        words = places(parts)
        able = [place for place in words if not chance.negates(parts[place])]
        if not able or len(words) < 2:
            return None
        gone = chance.some(able, self.config.share, pick)
        return without(parts, set(gone[: len(words) - 1]))
