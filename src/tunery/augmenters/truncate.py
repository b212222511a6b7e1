"""A text without its end, as where a form has cut it off."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from tunery.data import chance
from tunery.protocols import Augmenter


class Truncate(Augmenter):
    """At most a share of the words is cut off the end, and never a negation, which could turn the label round."""

    class Config(Augmenter.Config):
        name: Literal["truncate"] = "truncate"
        share: float = Field(0.2, gt=0, lt=1, description="of the words, at most")

    summary = "some words less at the end"

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.words import pieces, places

        parts = pieces(text)
        words = places(parts)
        most = min(max(1, round(self.config.share * len(words))), len(words) - 1)
        if most < 1:
            return None
        gone = words[-pick.randint(1, most) :]
        if any(chance.negates(parts[place]) for place in gone):
            return None
        return "".join(parts[: gone[0]]).rstrip()
