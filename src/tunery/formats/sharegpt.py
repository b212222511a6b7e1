"""Conversations as ShareGPT has them."""

from __future__ import annotations

from tunery.data import cells, conversations
from tunery.errors import DataError
from tunery.protocols import Example, Format, Message, Row


class ShareGPT(Format):
    """``{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}``.

    ``function_call`` and ``observation`` are calls and results of tools; ``system`` may be a column of its own.
    """

    summary = "conversations: lists of turns with from and value (ShareGPT), with tools as text"
    columns = ("conversations",)
    optional = ("system", "tools", "contains")
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError as format ``chat`` does, and for two system messages."""
        messages = conversations.messages(row, "conversations")
        system = cells.optional_text(row, "system")
        if system is not None:
            if messages[0].role == "system":
                problem = "a system message in the conversation, and another in column 'system'"
                raise DataError(problem, "remove one of them", row.where)
            messages = (Message("system", system), *messages)
        messages = conversations.with_tools(row, messages)
        if need_target:
            conversations.check_answered(row, messages)
        return conversations.example(row, messages)
