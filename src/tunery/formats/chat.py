"""Conversations of several turns."""

from __future__ import annotations

from typing import Any

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Format, Message, Row

_SHAPE = '{"role": "user", "content": "…"}'


class Chat(Format):
    """``{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}``."""

    summary = "conversations: lists of messages with role and content"
    columns = ("messages",)
    optional = ("contains",)
    task = "instruct"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """A system message may come first; then user and assistant take turns, the user beginning.

        Raises DataError: another role or order, blank content, no assistant turn at the end where one is needed.
        """
        turns = cells.unpacked(row.values.get("messages"), dict)
        if turns is None:
            raise cells.missing(row, "messages", "a list of messages")
        if not isinstance(turns, list):
            raise cells.wrong(row, "messages", turns, "a list of messages")
        messages = tuple(_message(row, number, turn) for number, turn in enumerate(turns, 1))
        _check_order(row, messages, need_target)
        last = messages[-1]
        return Example(
            row.file,
            row.line,
            messages=messages,
            references=(last.content,) if last.role == "assistant" else (),
            contains=cells.texts(row, "contains"),
        )


def _message(row: Row, number: int, turn: Any) -> Message:
    place = f"message {number}"
    if not isinstance(turn, dict):
        raise DataError(f"{place} is {cells.describe(turn)}, an object is needed", f"write {_SHAPE}", row.where)
    if "role" not in turn or "content" not in turn:
        hint = "rename from → role, value → content" if {"from", "value"} <= set(turn) else f"write {_SHAPE}"
        raise DataError(f"{place} lacks {'content' if 'role' in turn else 'role'}", hint, row.where)
    role, content = turn["role"], turn["content"]
    if role not in ("system", "user", "assistant"):
        raise DataError(f"{place} has the role {str(role)[:40]!r}", "roles are system, user and assistant", row.where)
    if not isinstance(content, str):
        raise DataError(f"{place}: content is {cells.describe(content)}, text is needed", "quote it", row.where)
    if cells.blank(content):
        raise DataError(f"{place}: content is blank", "remove that turn and its answer", row.where)
    return Message(role, content)


def _check_order(row: Row, messages: tuple[Message, ...], need_target: bool) -> None:
    skip = 1 if messages and messages[0].role == "system" else 0
    if len(messages) == skip:
        raise DataError("no user message in the conversation", "give at least one question", row.where)
    for number, message in enumerate(messages[skip:]):
        expected = "user" if number % 2 == 0 else "assistant"
        if message.role == expected:
            continue
        place = f"message {number + skip + 1} is of the {message.role}, the {expected} should speak"
        if message.role == "system":
            hint = "a system message can only come first"
        elif number == 0:
            hint = "begin with a user message (put a greeting into the system message)"
        else:
            hint = f"join neighbouring messages of the {message.role}"
        raise DataError(place, hint, row.where)
    if need_target and messages[-1].role != "assistant":
        raise DataError("the conversation ends without an answer", "end with an assistant message", row.where)
