"""Conversations as data sets write them → messages: OpenAI's ``role``/``content`` and ShareGPT's ``from``/``value``,
tools in either form, and transcripts with ``Human:`` and ``Assistant:``.

Tools become text, in the form that Hermes and Qwen models were trained on, so that any chat template can show them:

- definitions stand at the end of the system message, one JSON object a line between ``<tools>`` and ``</tools>``;
- a call is part of the assistant's turn: ``{"name": …, "arguments": …}`` between ``<tool_call>`` and ``</tool_call>``;
- results are a user's turn, each between ``<tool_response>`` and ``</tool_response>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Message, Row

Role = Literal["system", "user", "assistant"]
SHAPE = '{"role": "user", "content": "…"}'
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "human": "user"}
ROLES |= {"assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
RESULTS = ("tool", "function", "observation", "function_response")
"""Roles of what a tool answers."""
CALLS = ("function_call", "tool_call")
"""ShareGPT's roles of a call."""
WHOLE = ("messages", "conversations")
"""Columns that are the conversation: an error need not name them."""
_SPEAKERS: dict[str, Role] = {"Human": "user", "User": "user", "Assistant": "assistant"}
_APART = re.compile(r"(?:\A\s*|\n[ \t]*\n)(Human|User|Assistant):")
_LINES = re.compile(r"(?:\A\s*|\n)(Human|User|Assistant):")
_ASKING = re.compile(r"\s*(Human|User):.*\n\s*Assistant:\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One entry of the list. ``tool``: has a call or a result in it, and joins its neighbour of the same role."""

    number: int
    role: Role
    content: str
    tool: bool = False


def example(row: Row, messages: tuple[Message, ...]) -> Example:
    """A conversation as an example; what it ends with is the answer to learn."""
    last = messages[-1]
    return Example(
        row.file,
        row.line,
        messages=messages,
        references=(last.content,) if last.role == "assistant" else (),
        contains=cells.texts(row, "contains"),
    )


def messages(row: Row, column: str) -> tuple[Message, ...]:
    """The list in a column: a system message may come first, then user and assistant take turns.

    Raises DataError: not a list, an entry of another form, an unknown role, another order, blank content.
    """
    turns = cells.unpacked(row.values.get(column), dict)
    if turns is None:
        raise cells.missing(row, column, "a list of messages")
    if not isinstance(turns, list):
        raise cells.wrong(row, column, turns, "a list of messages")
    joined: list[_Piece] = []
    for piece in (_piece(row, column, number, turn) for number, turn in enumerate(turns, 1)):
        last = joined[-1] if joined else None
        if last and last.role == piece.role and (last.tool or piece.tool):
            joined[-1] = _Piece(last.number, last.role, f"{last.content}\n{piece.content}", True)
        else:
            joined.append(piece)
    _check_order(row, joined)
    return tuple(Message(piece.role, piece.content) for piece in joined)


def answer(row: Row, column: str, turns: Sequence[Any]) -> Message | None:
    """The one message of a list, if it is an assistant's. Raises DataError for an entry of another form."""
    piece = _piece(row, column, 1, turns[0])
    return Message("assistant", piece.content) if piece.role == "assistant" else None


def with_tools(row: Row, said: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation with the definitions of the column ``tools``, if there are any, in its system message."""
    if cells.absent(row, "tools"):
        return said
    value = row.values["tools"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]  # definitions in some form of their own: text as it is
    if not isinstance(value, list) or not all(isinstance(tool, str | dict) for tool in value):
        raise cells.wrong(row, "tools", row.values["tools"], "a list of tool definitions")
    if not value:
        return said
    lines = [tool if isinstance(tool, str) else _compact(_definition(tool)) for tool in value]
    text = "\n".join(["<tools>", *lines, "</tools>"])
    if said and said[0].role == "system":
        return (Message("system", f"{said[0].content}\n\n{text}"), *said[1:])
    return (Message("system", text), *said)


def _definition(tool: dict[str, Any]) -> Any:
    """Without OpenAI's envelope ``{"type": "function", "function": …}``."""
    inner = tool.get("function")
    return inner if isinstance(inner, dict) and tool.keys() <= {"type", "function"} else tool


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------ entries


def _piece(row: Row, column: str, number: int, turn: Any) -> _Piece:
    place = f"message {number}" if column in WHOLE else f"column {column!r}: message {number}"
    if not isinstance(turn, dict):
        raise DataError(f"{place} is {cells.describe(turn)}, an object is needed", f"write {SHAPE}", row.where)
    says, has = ("from", "value") if "role" not in turn and "from" in turn else ("role", "content")
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if says not in turn or (has not in turn and not calls):
        raise DataError(f"{place} lacks {has if says in turn else says}", f"write {SHAPE}", row.where)
    speaker, content = turn[says], turn.get(has)
    content = _parts(row, place, content)
    if calls:
        return _Piece(number, "assistant", _calls(row, place, content, calls), True)
    if not isinstance(content, str):
        raise DataError(f"{place}: {has} is {cells.describe(content)}, text is needed", "quote it", row.where)
    if cells.blank(content):
        raise DataError(f"{place}: {has} is blank", "remove that turn and its answer", row.where)
    name = speaker.lower() if isinstance(speaker, str) else ""
    if name in CALLS:
        return _Piece(number, "assistant", f"<tool_call>\n{content.strip()}\n</tool_call>", True)
    if name in RESULTS:
        return _Piece(number, "user", f"<tool_response>\n{content.strip()}\n</tool_response>", True)
    if name not in ROLES:
        known = "system, user and assistant" if says == "role" else "system, human and gpt"
        raise DataError(f"{place} has the role {str(speaker)[:40]!r}", f"roles are {known}", row.where)
    return _Piece(number, ROLES[name], content)


def _parts(row: Row, place: str, content: Any) -> Any:
    """OpenAI's content in parts: texts are joined. Raises DataError for an image or a sound."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else cells.describe(part)
            problem = f"{place}: content has a part that is no text ({str(kind)[:40]})"
            raise DataError(problem, "only text can be learnt; remove the row", row.where)
    return "".join(part["text"] for part in content)


def _calls(row: Row, place: str, content: Any, calls: Any) -> str:
    """An assistant's turn with calls in OpenAI's form; ``content`` may be absent."""
    found = [content.strip()] if isinstance(content, str) and content.strip() else []
    for call in calls if isinstance(calls, list) else [calls]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            hint = 'write {"function": {"name": "…", "arguments": "{…}"}}'
            raise DataError(f"{place}: a tool call without the name of its function", hint, row.where)
        arguments = inner.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError, RecursionError):  # anything but JSON stays text
                arguments = json.loads(arguments)
        found.append(f"<tool_call>\n{_compact({'name': inner['name'], 'arguments': arguments})}\n</tool_call>")
    return "\n".join(found)


# -------------------------------------------------------------------------------------------------- order


def _check_order(row: Row, pieces: Sequence[_Piece]) -> None:
    """A system message first, then user and assistant in turn, the user beginning. Raises DataError."""
    skip = 1 if pieces and pieces[0].role == "system" else 0
    if len(pieces) == skip:
        raise DataError("no user message in the conversation", "give at least one question", row.where)
    for number, piece in enumerate(pieces[skip:]):
        expected = "user" if number % 2 == 0 else "assistant"
        if piece.role == expected:
            continue
        place = f"message {piece.number} is of the {piece.role}, the {expected} should speak"
        if piece.role == "system":
            hint = "a system message can only come first"
        elif number == 0:
            hint = "begin with a user message (put a greeting into the system message)"
        else:
            hint = f"join neighbouring messages of the {piece.role}"
        raise DataError(place, hint, row.where)


def check_answered(row: Row, said: Sequence[Message]) -> None:
    """Raises DataError if the conversation does not end with an answer."""
    if not said or said[-1].role != "assistant":
        raise DataError("the conversation ends without an answer", "end with an assistant message", row.where)


# -------------------------------------------------------------------------------------------- transcripts


def asks(text: str) -> bool:
    r"""Whether a text is a transcript that waits for an answer, as ``"\n\nHuman: Hi\n\nAssistant:"``."""
    return _ASKING.fullmatch(text) is not None


def transcript(row: Row, column: str, text: str) -> tuple[Message, ...]:
    """The turns of a transcript; neighbouring ones of one speaker are joined, an empty last one is left out.

    Turns begin after a blank line; where none does, with a line. Raises DataError: it does not begin with ``Human:``,
    an empty turn in the middle.
    """
    apart = _APART.split(text)
    parts = apart if len(apart) > 3 else _LINES.split(text)
    if parts[0].strip() or len(parts) < 3:
        hint = 'write "\\n\\nHuman: …\\n\\nAssistant: …"'
        raise DataError(f"column {column!r} is no transcript: no 'Human:' at its beginning", hint, row.where)
    said: list[Message] = []
    turns = list(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
    for number, (speaker, content) in enumerate(turns, 1):
        role = _SPEAKERS[speaker]
        if cells.blank(content):
            if number == len(turns):
                break
            hint = "remove that turn and its answer"
            raise DataError(f"column {column!r}: turn {number} of the transcript is empty", hint, row.where)
        if said and said[-1].role == role:
            said[-1] = Message(role, f"{said[-1].content}\n\n{content}")
        else:
            said.append(Message(role, content))
    if not said or said[0].role != "user":
        hint = "begin with a turn of the human"
        raise DataError(f"column {column!r}: the transcript begins with the assistant", hint, row.where)
    return tuple(said)


def as_list(value: Any) -> list[Any] | None:
    """A list of messages (a JSON list in a CSV cell, one message alone), or None for anything else."""
    value = cells.unpacked(value, dict)
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else None
