"""Simplified and traditional Chinese."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from tunery.errors import ConfigError
from tunery.protocols import Cleaner, Strict

_WHOLE = re.compile("[^\ud800-\udfff]+")
"""All but halves of characters, which OpenCC cannot read."""
_TABLES = {"simplified": "t2s", "traditional": "s2t", "taiwan": "s2tw", "hong_kong": "s2hk"}


class Chinese(Cleaner):
    """Conversion by OpenCC's tables of words, as one character may stand for several (头发, 出发 → 頭髮, 出發)."""

    class Config(Strict):
        name: Literal["chinese"] = "chinese"
        to: Literal["simplified", "traditional", "taiwan", "hong_kong"] = Field(
            "simplified", description="the characters to write"
        )

    summary = "traditional characters become simplified ones, or the reverse"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        try:
            from opencc import OpenCC
        except ImportError:
            raise ConfigError(
                "cleaning step chinese needs opencc", "pip install 'tunery[clean]'", "data.clean"
            ) from None
        self._convert = OpenCC(_TABLES[config.to]).convert

    def clean(self, text: str) -> str:
        if text.isascii():
            return text
        return _WHOLE.sub(lambda part: str(self._convert(part[0])), text)
