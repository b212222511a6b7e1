"""Texts with labels: classification and regression."""

from __future__ import annotations

from tunery.data import cells
from tunery.protocols import Example, Format, Row


class Labels(Format):
    """``{"text": "Great room", "label": "positive"}``; ``label`` may be text, a number, a boolean or a list."""

    summary = "a text (or two) with a label, a number or a list of labels"
    columns = ("text", "label")
    optional = ("text_pair",)
    targets = ("label",)
    task = "classify"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """The label is always text, or a tuple of texts; a task that wants numbers parses it.

        Raises DataError: blank text, no label where one is needed, a cell of the wrong type.
        """
        skip = not need_target and cells.absent(row, "label")
        return Example(
            row.file,
            row.line,
            text=cells.text(row, "text"),
            text_pair=cells.optional_text(row, "text_pair"),
            label=None if skip else cells.label(row, "label"),
        )
