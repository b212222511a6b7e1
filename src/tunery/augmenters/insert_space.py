"""Spaces where there were none, as in texts from forms and scans."""

from __future__ import annotations

import random
from typing import Literal

from pydantic import Field

from tunery.data import chance
from tunery.protocols import Augmenter


class InsertSpace(Augmenter):
    """A share of the words gets a space inside; Chinese characters get one before them. Negations stay whole."""

    class Config(Augmenter.Config):
        name: Literal["insert_space"] = "insert_space"
        share: float = Field(0.1, gt=0, le=1, description="of the words")

    summary = "a space inside some words, or before some Chinese characters"

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.words import pieces, unspaced

        parts = pieces(text)
        able = [
            place
            for place, part in enumerate(parts)
            if part[0].isalnum()
            and not chance.negates(part)
            and (len(part) > 1 or (place and unspaced(part) and not parts[place - 1].isspace()))
        ]
        if not able:
            return None
        for place in chance.some(able, self.config.share, pick):
            part = parts[place]
            at = pick.randrange(1, len(part)) if len(part) > 1 else 0
            parts[place] = f"{part[:at]} {part[at:]}"
        return "".join(parts)
