"""Paraphrases that were made beforehand, by translating texts into another language and back."""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import Field

from tunery.data import lists
from tunery.errors import DataError
from tunery.protocols import Augmenter


class BackTranslation(Augmenter):
    """Sennrich et al. 2016, arXiv:1511.06709, as a hook: any translator writes the file, no model runs here. A text
    is found whatever its case and spacing; of several paraphrases each copy takes one.
    """

    class Config(Augmenter.Config):
        name: Literal["back_translation"] = "back_translation"
        file: str = Field(description="UTF-8 text, a line each: the original, a tab, the paraphrase")

    summary = "a paraphrase from a file that a translator of your choice has made"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.files = (config.file,)
        self._paraphrases = _read(config.file)

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.rows import normalise

        found = self._paraphrases.get(normalise(text))
        return pick.choice(found) if found else None


def _read(file: str) -> dict[str, list[str]]:
    """{normalised original: paraphrases}. Raises DataError with the line."""
    from tunery.data.rows import normalise

    found: dict[str, list[str]] = {}
    for number, line in lists.entries(file, "paraphrases"):
        original, tab, paraphrase = line.partition("\t")
        if not tab or not original.strip() or not paraphrase.strip():
            raise DataError(
                "not an original, a tab and a paraphrase", "write: original<TAB>paraphrase", f"{file}:{number}"
            )
        found.setdefault(normalise(original), []).append(paraphrase.strip())
    if not found:
        raise DataError("no paraphrases in this file", "write: original<TAB>paraphrase", file)
    return found
