"""Conversations of several turns."""

from __future__ import annotations

from tunery.data import conversations
from tunery.protocols import Example, Format, Row


class Chat(Format):
    """``{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}``.

    ``tools``, calls and results become text, see ``data/conversations.py``.
    """

    summary = "conversations: lists of messages with role and content (OpenAI), with tools as text"
    columns = ("messages",)
    optional = ("tools", "contains")
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """A system message may come first; then user and assistant take turns, the user beginning.

        Raises DataError: another role or order, blank content, no assistant turn at the end where one is needed.
        """
        messages = conversations.with_tools(row, conversations.messages(row, "messages"))
        if need_target:
            conversations.check_answered(row, messages)
        return conversations.example(row, messages)
