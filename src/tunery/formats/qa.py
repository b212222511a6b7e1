"""Questions and answers."""

from __future__ import annotations

from tunery.data import cells
from tunery.protocols import Example, Format, Row


class QA(Format):
    """``{"question": "Opening hours?", "answer": "9 to 5."}``.

    ``answers`` lists all accepted answers, ``contains`` the facts that a right answer must name,
    ``context`` a text that is put before the question, ``system`` the system message.
    """

    summary = "a question and its answer, optionally with context and further accepted answers"
    columns = ("question", "answer")
    optional = ("answers", "contains", "context", "system")
    targets = ("answer",)
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: blank question or answer, a cell of the wrong type."""
        skip = not need_target and cells.absent(row, "answer")
        question = cells.text(row, "question")
        context = cells.optional_text(row, "context")
        answer = None if skip else cells.text(row, "answer")
        return Example(
            row.file,
            row.line,
            messages=cells.conversation(
                cells.optional_text(row, "system"),
                question if context is None else f"{context}\n\n{question}",
                answer,
            ),
            references=cells.references(answer, cells.texts(row, "answers")),
            contains=cells.texts(row, "contains"),
        )
