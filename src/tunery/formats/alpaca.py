"""Instructions in the form of the Alpaca data."""

from __future__ import annotations

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Format, Message, Row


class Alpaca(Format):
    """``{"instruction": "Translate", "input": "Good morning", "output": "早上好"}``.

    ``history`` lists earlier turns as pairs ``["question", "answer"]``.
    """

    summary = "an instruction, optionally with an input, and the output (Alpaca)"
    columns = ("instruction", "output")
    optional = ("input", "system", "history", "contains")
    targets = ("output",)
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: blank instruction or output, a cell of the wrong type."""
        skip = not need_target and cells.absent(row, "output")
        instruction = cells.text(row, "instruction")
        given = cells.optional_text(row, "input")
        output = None if skip else cells.text(row, "output")
        system = cells.optional_text(row, "system")
        asked = instruction if given is None else f"{instruction}\n\n{given}"
        return Example(
            row.file,
            row.line,
            messages=cells.conversation(system, asked, output, _history(row)),
            references=cells.references(output, ()),
            contains=cells.texts(row, "contains"),
        )


def _history(row: Row) -> tuple[Message, ...]:
    if cells.absent(row, "history"):
        return ()
    turns = cells.unpacked(row.values["history"], list)
    need = 'a list of pairs ["question", "answer"]'
    if not isinstance(turns, list):
        raise cells.wrong(row, "history", turns, need)
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise DataError(f"column 'history': turn {number} is not a pair of texts", f"give {need}", row.where)
        if any(cells.blank(part) for part in turn):
            raise DataError(f"column 'history': turn {number} has a blank text", "remove the turn", row.where)
        messages += [Message("user", turn[0]), Message("assistant", turn[1])]
    return tuple(messages)
