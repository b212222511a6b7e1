"""A chat template read as what stands before and after each turn, for programs that do not run Jinja.

The pieces are found by rendering conversations whose contents are marks, and then proved: conversations of other
lengths and roles, put together from the pieces, must be what the template makes of them. A template that does more than
put turns one after the other has no pieces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunery.data.render import added_bos, render_text
from tunery.errors import ConfigError
from tunery.protocols import Message

_MARKS = {"system": "Marksystem", "user": "Markuser", "assistant": "Markassistant"}


@dataclass(frozen=True, slots=True)
class Turns:
    """Text around the contents of each role; ``default`` comes first where there is no system turn."""

    user: tuple[str, str]
    assistant: tuple[str, str]
    ask: str
    """What asks for an answer."""
    system: tuple[str, str] | None = None
    """None where the template refuses system turns."""
    default: str = ""

    def render(self, messages: Sequence[Message], ask: bool) -> str:
        parts = [] if any(message.role == "system" for message in messages) else [self.default]
        for message in messages:
            around = {"system": self.system, "user": self.user, "assistant": self.assistant}[message.role]
            assert around is not None
            parts += [around[0], message.content, around[1]]
        return "".join(parts) + (self.ask if ask else "")


def read(template: str, tokenizer: Any) -> Turns | None:
    """The pieces of a template, or None if turns one after the other are not what it makes. A BOS at its beginning is
    left out where the tokenizer puts one there anyway.
    """
    rendered = _Renderer(template, tokenizer)
    system, user, assistant = (Message(role, mark) for role, mark in _MARKS.items())  # type: ignore[arg-type]
    try:
        one, two = rendered([user], True), rendered([user, assistant, user, assistant], False)
        found = _pieces(one, two, rendered([user], False))
    except (ConfigError, ValueError):
        return None
    with contextlib.suppress(ConfigError, ValueError):  # a template may have no system turns
        found = _with_system(found, rendered([system, user], False))
    probes = [
        [user], [user, assistant], [user, assistant, user], [user, assistant, user, assistant, user],
        *([[system, user], [system, user, assistant, user]] if found.system else []),
    ]  # fmt: skip
    for probe in probes:
        plain = [Message(m.role, f"{m.content} {number}\nline") for number, m in enumerate(probe)]
        for ask in {True, plain[-1].role == "user"}:
            if rendered(plain, ask) != found.render(plain, ask):
                return None
    return found


class _Renderer:
    def __init__(self, template: str, tokenizer: Any) -> None:
        self.template, self.tokenizer = template, tokenizer
        self.bos = tokenizer.bos_token if added_bos(tokenizer) is not None else ""

    def __call__(self, messages: Sequence[Message], ask: bool) -> str:
        return render_text(messages, self.tokenizer, self.template, ask).removeprefix(self.bos)


def _pieces(one: str, two: str, unasked: str) -> Turns:
    """From ``user, ask``, from ``user, assistant, user, assistant``, and from ``user``. Raises ValueError if a mark is
    missing.
    """
    user, assistant = _MARKS["user"], _MARKS["assistant"]
    first, asking = one.split(user)
    begun, after_user = unasked.split(user)
    if begun != first or not asking.startswith(after_user):
        raise ValueError(one)
    ask = asking.removeprefix(after_user)
    head, rest = two.split(user, 1)
    between, rest = rest.split(assistant, 1)
    middle, rest = rest.split(user, 1)
    again, after_answer = rest.split(assistant, 1)
    before_answer = between.removeprefix(after_user)
    if head != first or again != between or not between.startswith(after_user) or not middle.startswith(after_answer):
        raise ValueError(two)
    before_user = middle.removeprefix(after_answer)
    if not first.endswith(before_user):
        raise ValueError(first)
    default = first[: len(first) - len(before_user)]
    return Turns((before_user, after_user), (before_answer, after_answer), ask, default=default)


def _with_system(found: Turns, text: str) -> Turns:
    """The system turn from ``system, user``. Raises ValueError if it is not there."""
    before, rest = text.split(_MARKS["system"])
    after = rest.removesuffix(found.user[1]).removesuffix(_MARKS["user"]).removesuffix(found.user[0])
    if rest != after + found.user[0] + _MARKS["user"] + found.user[1]:
        raise ValueError(text)
    return replace(found, system=(before, after))
