"""Prompts and responses: translation, summaries, any text to any text."""

from __future__ import annotations

from tunery.data import cells
from tunery.protocols import Example, Format, Row


class Pairs(Format):
    """``{"prompt": "Good morning", "response": "早上好"}``; ``references`` lists all accepted responses."""

    summary = "a prompt and its response (translation, summary, any text to text)"
    columns = ("prompt", "response")
    optional = ("references", "contains", "system")
    targets = ("response",)
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: blank prompt or response, a cell of the wrong type."""
        skip = not need_target and cells.absent(row, "response")
        prompt = cells.text(row, "prompt")
        response = None if skip else cells.text(row, "response")
        return Example(
            row.file,
            row.line,
            messages=cells.conversation(cells.optional_text(row, "system"), prompt, response),
            references=cells.references(response, cells.texts(row, "references")),
            contains=cells.texts(row, "contains"),
        )
