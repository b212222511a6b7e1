"""Words without their endings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunery.data.words import pieces
from tunery.protocols import Cleaner, Strict

Language = Literal[
    "arabic", "danish", "dutch", "english", "finnish", "french", "german", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish",
]  # fmt: skip


class Stem(Cleaner):
    """Snowball's stemmers, from nltk. Words come out in small letters; Chinese has no endings and stays."""

    class Config(Strict):
        name: Literal["stem"] = "stem"
        language: Language = Field("english", description="of the texts")

    summary = "endings off (deliveries → deliveri), by Snowball's rules for fifteen languages"
    note = "models that read subwords seldom gain by stemming"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        from nltk.stem.snowball import SnowballStemmer

        self._stem = SnowballStemmer(config.language).stem

    def clean(self, text: str) -> str:
        return "".join(self._stem(part) if part[0].isalpha() else part for part in pieces(text))
