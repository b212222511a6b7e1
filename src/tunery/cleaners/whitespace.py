"""White space of all kinds."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from tunery.data.words import CJK
from tunery.protocols import Cleaner, Strict

_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
_BREAKS = re.compile("\r\n?|[\u0085\u2028\u2029\x0b\x0c]")
_SPACE = "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
_OTHER = re.compile(_SPACE)
_INNER = re.compile(r"(?<=\S)[ \t]+")
_EMPTY = re.compile(r"\n(?:[ \t]*\n){2,}")
_LINE = re.compile(r"\s+")
_BETWEEN = re.compile(rf"(?<=[{CJK}])[ \t]+(?=[{CJK}])")


class Whitespace(Cleaner):
    """Indentation stays, as it means something in code; joiners inside emoji and Indic scripts stay too."""

    class Config(Strict):
        name: Literal["whitespace"] = "whitespace"
        one_line: bool = Field(False, description="line breaks become spaces")
        chinese: bool = Field(False, description="no spaces between Chinese characters")

    summary = "one space where several or odd ones stood, no invisible characters, one blank line at most"
    answers = True

    def clean(self, text: str) -> str:
        text = _OTHER.sub(" ", _BREAKS.sub("\n", _INVISIBLE.sub("", text)))
        if self.config.one_line:
            text = _LINE.sub(" ", text)
        lines = (_INNER.sub(" ", line.rstrip()) for line in text.split("\n"))
        text = _EMPTY.sub("\n\n", "\n".join(lines))
        if self.config.chinese:
            text = _BETWEEN.sub("", text)
        return text.strip("\n").rstrip() if text[:1] in (" ", "\t") and "\n" in text else text.strip()
