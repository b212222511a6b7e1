"""A text with some words replaced by others that mean the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from tunery.data import chance, lists
from tunery.errors import ConfigError, DataError
from tunery.protocols import Augmenter

_LONGEST = 12  # pieces of an entry (characters, for Chinese) that are looked up together


class Synonym(Augmenter):
    """Synonym replacement (Wei & Zou 2019, arXiv:1901.11196) from a list of the user's, or from WordNet: of the first
    meaning of a word only, as the others mostly do not fit. Nothing is fetched.
    """

    class Config(Augmenter.Config):
        name: Literal["synonym"] = "synonym"
        share: float = Field(0.1, gt=0, le=1, description="of the words that have synonyms")
        file: str | None = Field(None, description="UTF-8 text: a line for each group of synonyms, commas between them")
        wordnet: bool = Field(False, description="English, from the corpus wordnet of nltk, if it is installed")

    summary = "some words become synonyms, from a file of yours or WordNet"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if (config.file is None) == (not config.wordnet):
            hint = "write {name: synonym, file: FILE} or {name: synonym, wordnet: true}"
            raise ConfigError("step synonym needs a list of words: a file or WordNet", hint, "data.augment")
        self._of: Callable[[str], Sequence[str]]
        if config.file is None:
            self._of = _wordnet()
        else:
            self.files = (config.file,)
            groups = _groups(config.file)
            self._of = lambda word: groups.get(word, ())

    def augment(self, text: str, pick: random.Random) -> str | None:
        from tunery.data.words import pieces

        parts = pieces(text)
        found = list(self._found(parts))
        if not found:
            return None
        chosen = chance.some(range(len(found)), self.config.share, pick)
        for number in reversed(chosen):
            begin, end, others = found[number]
            word = pick.choice(others)
            parts[begin:end] = [word[:1].upper() + word[1:] if parts[begin][:1].isupper() else word]
        return "".join(parts)

    def _found(self, parts: Sequence[str]) -> list[tuple[int, int, Sequence[str]]]:
        """[begin, end) of the words that have synonyms, the longest that begins at a place, and those synonyms."""
        found, begin = [], 0
        while begin < len(parts):
            ends = range(min(begin + _LONGEST, len(parts)), begin, -1) if parts[begin][0].isalnum() else ()
            words = ((end, "".join(parts[begin:end]).casefold()) for end in ends)
            hit = next(((end, others) for end, word in words if (others := self._of(word))), None)
            if hit is not None:
                found.append((begin, *hit))
            begin = begin + 1 if hit is None else hit[0]
        return found


def _groups(file: str) -> dict[str, tuple[str, ...]]:
    """{word: its synonyms}. Raises DataError: no such file, not UTF-8, a line with one word, no line."""
    groups: dict[str, dict[str, None]] = {}
    for number, line in lists.entries(file, "list"):
        if line.startswith("#"):
            continue
        words = [word.strip() for word in line.replace("，", ",").split(",") if word.strip()]
        if len(words) < 2:
            raise DataError("a group of synonyms has two words at least", "write: word, synonym", f"{file}:{number}")
        for word in words:
            others = (other for other in words if other.casefold() != word.casefold())
            groups.setdefault(word.casefold(), {}).update(dict.fromkeys(others))
    if not groups:
        raise DataError("no synonyms in this file", "one group a line, commas between the words", file)
    return {word: tuple(others) for word, others in groups.items()}


def _wordnet() -> Callable[[str], Sequence[str]]:
    """Raises ConfigError if the corpus is not there."""
    from nltk.corpus import wordnet

    def others(word: str) -> Sequence[str]:
        if not (word.isascii() and word.isalpha()):
            return ()
        meanings = wordnet.synsets(word)
        names = meanings[0].lemma_names() if meanings else []
        return [name for name in names if name.isalpha() and name.casefold() != word]

    try:
        others("good")
    except LookupError:
        hint = "python -m nltk.downloader wordnet, or name a file of synonyms with file: FILE"
        raise ConfigError("step synonym: nltk's corpus wordnet is not installed", hint, "data.augment") from None
    return others
