"""Words that say little by themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunery.data import segment
from tunery.data.words import pieces, unspaced, without
from tunery.protocols import Cleaner, Strict

_CHINESE = """
的 地 得 了 着 过 在 是 有 和 与 及 或 而 但 就 也 都 还 又 再 很 太 把 被 从 到 对 向 给 让 为 以 于 由 这 那 这个 那个
这些 那些 这里 那里 我 你 您 他 她 它 我们 你们 他们 她们 它们 自己 什么 怎么 哪里 吗 呢 吧 啊 呀 嘛 哦 一个 一些 一下
一样 因为 所以 如果 虽然 但是 而且 并且 然后 以及 关于 之 其 所
"""
_NEGATIONS = "no nor not never none neither nothing nobody noone nowhere cannot cant couldnt hasnt without"
CHINESE = frozenset(_CHINESE.split())
NEGATIONS = frozenset(_NEGATIONS.split())
"""They turn a meaning round, and stand in scikit-learn's list all the same."""


class Stopwords(Cleaner):
    """English words of scikit-learn's list, Chinese ones of a short list of our own; negations stay."""

    class Config(Strict):
        name: Literal["stopwords"] = "stopwords"
        language: Literal["auto", "english", "chinese"] = Field("auto", description="auto: both")
        words: list[str] | None = Field(None, description="other words than those, for any language")

    summary = "function words (the, of, 的, 了) go; negations stay"
    note = "models that read subwords seldom gain by stop-word removal"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._words = frozenset(word.casefold() for word in config.words or ()) or _built_in(config.language)
        self._segments = any(not word.isascii() for word in self._words)
        if self._segments:
            segment.ready("cleaning step stopwords", "data.clean")

    def clean(self, text: str) -> str:
        parts = [part for run in self._runs(text) for part in run]
        return without(parts, {place for place, part in enumerate(parts) if part.casefold() in self._words})

    def _runs(self, text: str) -> list[list[str]]:
        if not self._segments or text.isascii():
            return [pieces(text)]
        return [[run] if unspaced(run) else pieces(run) for run in segment.segment(text)]


def _built_in(language: str) -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    english = frozenset(ENGLISH_STOP_WORDS) - NEGATIONS
    return {"english": english, "chinese": CHINESE}.get(language, english | CHINESE)
