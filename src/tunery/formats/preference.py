"""Preferences: a prompt with the better and the worse answer."""

from __future__ import annotations

from typing import Any

from tunery.data import cells, conversations
from tunery.errors import DataError
from tunery.protocols import Example, Format, Message, Row

_NEED = "text or a list of messages"


class Preference(Format):
    """``{"prompt": "Hi", "chosen": "Hello! How can I help?", "rejected": "What?"}``.

    Each of the three may be a list of messages. ``chosen`` then is the answer alone, or the whole conversation again.
    ``input`` is added to the prompt, as in Alpaca's form. A prompt may be a transcript that ends with ``Assistant:``.
    """

    summary = "a prompt with a chosen and a rejected answer; the chosen one is learnt"
    columns = ("prompt", "chosen", "rejected")
    optional = ("input", "system", "contains")
    targets = ("chosen", "rejected")
    task = "instruct"
    note = "rows of preferences: task instruct learns the chosen answers and does not look at the rejected ones"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: a blank or wrong cell, a conversation that does not end with an answer, two equal ones."""
        asked = _asked(row)
        if not need_target and cells.absent(row, "chosen"):
            return Example(row.file, row.line, messages=asked, contains=cells.texts(row, "contains"))
        messages = _whole(row, "chosen", asked)
        rejected = None if not need_target and cells.absent(row, "rejected") else _whole(row, "rejected", asked)
        if rejected == messages:
            raise DataError("the chosen and the rejected answer are the same", "remove the row", row.where)
        return Example(
            row.file,
            row.line,
            messages=messages,
            references=(messages[-1].content,),
            contains=cells.texts(row, "contains"),
        )


def _asked(row: Row) -> tuple[Message, ...]:
    """The conversation up to the answer."""
    if conversations.as_list(row.values.get("prompt")) is not None:
        asked = conversations.messages(row, "prompt")
    else:
        prompt = cells.text(row, "prompt")
        if conversations.asks(prompt):
            asked = conversations.transcript(row, "prompt", prompt)
        else:
            asked = (Message("user", prompt),)
    if asked[-1].role != "user":
        raise DataError("column 'prompt' ends with an answer", "end it with a question", row.where)
    given, system = cells.optional_text(row, "input"), cells.optional_text(row, "system")
    if given is not None:
        asked = (*asked[:-1], Message("user", f"{asked[-1].content}\n\n{given}"))
    if system is not None and asked[0].role != "system":
        asked = (Message("system", system), *asked)
    return asked


def _whole(row: Row, column: str, asked: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the answer of a column."""
    value: Any = row.values.get(column)
    turns = conversations.as_list(value)
    if turns is None:
        if value is not None and not isinstance(value, str):
            raise cells.wrong(row, column, value, _NEED)
        return (*asked, Message("assistant", cells.text(row, column)))
    if not turns:
        raise DataError(f"column {column!r} is an empty list", f"give {_NEED}", row.where)
    alone = conversations.answer(row, column, turns) if len(turns) == 1 else None
    if alone is not None:
        return (*asked, alone)
    said = conversations.messages(row, column)
    conversations.check_answered(row, said)
    talk = [message for message in said if message.role != "system"]
    if talk[:-1] != [message for message in asked if message.role != "system"]:
        hint = "give the answer alone, or the prompt's messages before it"
        raise DataError(f"column {column!r} is a conversation that does not begin with the prompt", hint, row.where)
    return said if said[0].role == "system" else (*asked, said[-1])
