"""Chinese words with spaces between them."""

from __future__ import annotations

from typing import Any, Literal

from tunery.data import segment
from tunery.protocols import Cleaner, Strict


class Segment(Cleaner):
    """Words by jieba. For models whose tokens were made of segmented text; others read Chinese as it is written."""

    class Config(Strict):
        name: Literal["segment"] = "segment"

    summary = "spaces between Chinese words (jieba)"
    note = "models that read subwords seldom gain by segmentation"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        segment.ready("cleaning step segment", "data.clean")

    def clean(self, text: str) -> str:
        parts = (part.strip() for part in segment.segment(text))
        return " ".join(part for part in parts if part)
