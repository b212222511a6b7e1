"""Plain texts: language modelling."""

from __future__ import annotations

from collections.abc import Iterable

from tunery.data import cells
from tunery.protocols import Example, Format, Row


class Text(Format):
    """``{"text": "A whole document …"}``, or a .txt file with one text a line."""

    summary = "texts without labels: continue training on documents"
    columns = ("text",)
    task = "lm"

    def matches(self, columns: Iterable[str]) -> float:
        """Most tables have some text: the last choice among the formats that fit."""
        return 0.9 * super().matches(columns)

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: blank text, or not text."""
        return Example(row.file, row.line, text=cells.text(row, "text"))
