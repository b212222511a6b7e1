"""Chat templates are programs, and may come from a hub: they are rendered in transformers' sandbox, within limits.

transformers' own environment is used, so a template means the same as in ``apply_chat_template``. What is added: every
turn of a loop and every call of a macro counts, every text that is made is paid for from a budget of characters, and
what could make a text much longer in one go is looked at before it happens. That works in any thread and process, and
costs a few microseconds a conversation.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from itertools import islice
from typing import TYPE_CHECKING, Any

from tunery.errors import ConfigError
from tunery.protocols import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 2.0
"""Processor time of one conversation."""
CHARACTERS = 50_000_000
"""Characters that a template may make of one conversation, what it throws away included."""
LARGEST = 100_000
"""Largest number in an operation that repeats or pads."""
_OFTEN = 64  # steps between looks at the clock
_ITEM = 8  # characters
_LOOKED_AT = 10_000  # items of a list; those after them are taken to be alike
_PAYS, _COUNTS = "tunery_pays", "tunery_counts"
_GROWING = frozenset(
    (
        *("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "join", "replace", "format", "format_map"),
        *("translate", "batch", "slice", "wordwrap", "to_bytes", "tojson", "sum"),
    )
)
"""Methods and filters whose result may be much longer than what they are given."""
_PLAIN = frozenset(("first", "last", "index", "index0"))
"""Numbers and truth values of a loop."""
_WIDTH = re.compile(r"\d{5,}|\*")


class _Spent:
    """What the conversation that a thread renders has used."""

    __slots__ = ("characters", "steps", "until")

    def __init__(self) -> None:
        self.steps = self.characters = 0
        self.until = float("inf")

    def begin(self) -> None:
        self.steps = self.characters = 0
        self.until = time.thread_time() + SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps % _OFTEN == 0:
            self.look()

    def look(self) -> None:
        if time.thread_time() > self.until:
            raise _limit(f"it takes more than {SECONDS:g} s")

    def pay(self, characters: int) -> None:
        self.characters += characters
        if characters > LARGEST:  # such steps take long
            self.look()
        if self.characters > CHARACTERS:
            raise _limit(f"it makes more than {CHARACTERS:,} characters")

    def join(self, left: str, right: str) -> str:
        """``left + right``, which is nearly all that templates do: a step, paid for."""
        size = len(left) + len(right)
        if size > LARGEST:
            _within("+", size)
        self.step()
        self.pay(size)
        return left + right


class _Threads(threading.local):
    def __init__(self) -> None:
        self.spent = _Spent()


_this_thread = _Threads()


def _limit(problem: str) -> ConfigError:
    return ConfigError(
        f"the chat template cannot be rendered: {problem}", "look for loops that repeat too often", "task.template"
    )


def render(
    template: str, conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, ask: bool
) -> list[str]:
    """The texts of conversations; ``ask`` adds what stands before an answer.

    Raises ConfigError: the template refuses it (``raise_exception``), has a fault, or goes beyond the limits.
    """
    try:
        compiled = _compiled(template)
        given = {"tools": None, "documents": None, "add_generation_prompt": ask, **tokenizer.special_tokens_map}
        known = dict(compiled.globals, **given)  # as Template.generate does it, but once for all conversations
        spent = _this_thread.spent
        texts = []
        for messages in conversations:
            spent.begin()
            plain = [{"role": message.role, "content": message.content} for message in messages]
            context = compiled.new_context({**known, "messages": plain}, shared=True)
            texts.append("".join(_paid(compiled.root_render_func(context), spent)))
        return texts
    except ConfigError:
        raise
    except RecursionError:
        raise _limit("it calls itself without end") from None
    except Exception as error:  # a template is a program: whatever it raises is its own fault
        problem = f"the chat template refuses this conversation: {error or type(error).__name__}"
        raise ConfigError(problem, "", "task.template") from None


def _paid(pieces: Iterable[str], spent: _Spent) -> Iterator[str]:
    for piece in pieces:
        spent.pay(len(piece))
        yield piece


DAY = datetime(2024, 7, 26)
"""What templates that ask for today's date get, in training and ever after: with the real date, rows that were encoded
yesterday and prompts of today would not agree, nor two runs of one configuration. It is the day that Llama 3's own
template names where there is no clock.
"""


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """The environment of transformers, with its filters, globals and extensions, and the limits built in."""
    import jinja2
    from transformers.utils import chat_template_utils

    # compiled from a source that nobody else has, as transformers keeps one environment for each source
    found: Any = chat_template_utils._compile_jinja_template("{# tunery #}").environment
    found.__class__ = _bounded()
    found.filters = {name: _guarded(name, each) for name, each in found.filters.items()}
    found.filters[_PAYS], found.filters[_COUNTS] = _pays, _counts
    # with a context as argument they are never worked out before rendering
    for each in (_pays, _counts):
        jinja2.pass_context(each)
    found.globals.pop("lipsum", None)
    found.globals["strftime_now"] = DAY.strftime
    return found


@lru_cache(maxsize=1)
def _bounded() -> type:
    from jinja2 import nodes
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Bounded(ImmutableSandboxedEnvironment):
        """A sandbox that counts and looks before it leaps."""

        intercepted_binops = frozenset(("+", "*", "**", "%"))

        def _parse(self, source: str, name: str | None, filename: str | None) -> Any:
            tree: Any = super()._parse(source, name, filename)
            for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
                counting = nodes.Filter(nodes.Const(None), _COUNTS, [], [], None, None, lineno=node.lineno)
                statement = nodes.ExprStmt(counting, lineno=node.lineno)
                statement.set_environment(self)
                node.body.insert(0, statement)
            for node in list(tree.find_all((nodes.Output, nodes.Concat))):  # before others stand around them
                node.nodes = [
                    each
                    if isinstance(each, nodes.TemplateData | nodes.Const)
                    else nodes.Filter(each, _PAYS, [], [], None, None, lineno=node.lineno, environment=self)
                    for each in node.nodes
                ]
            return tree

        def getattr(self, obj: Any, attribute: str) -> Any:
            if type(obj) is LoopContext and attribute in _PLAIN:  # three a turn, each looked at at length otherwise
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            spent = _this_thread.spent
            if operator == "+" and type(left) is str and type(right) is str:
                return spent.join(left, right)
            spent.step()
            _look(operator, left, right)
            result = super().call_binop(context, operator, left, right)
            spent.pay(_size(result))
            return result

        def call(self, context: Any, function: Any, /, *args: Any, **named: Any) -> Any:
            method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
            name = getattr(method, "__name__", "")
            if name in _GROWING:
                _grows(name, getattr(method, "__self__", None), [*args, *named.values()])
            _this_thread.spent.step()
            result = super().call(context, function, *args, **named)
            _this_thread.spent.pay(_size(result))
            return result

    return Bounded


# ------------------------------------------------------------------------------------------------ limits


def _counts(_context: Any, value: Any) -> Any:
    _this_thread.spent.step()
    return value


def _pays(_context: Any, value: Any) -> Any:
    _this_thread.spent.pay(_size(value))
    return value


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is looked at before and paid for after; with the marks that Jinja has put on it."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **named: Any) -> Any:
        if name in _GROWING and len(args) > skip:
            _grows(name, args[skip], [*args[skip + 1 :], *named.values()])
        _this_thread.spent.step()
        result = function(*args, **named)
        _this_thread.spent.pay(_size(result))
        return result

    return guarded


def _size(value: Any) -> int:
    """Characters of a text, or of the texts in a list, an item being worth some as well; digits of a large number."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple | dict):
        items = islice(value.values() if isinstance(value, dict) else value, _LOOKED_AT)
        size = sum(len(item) for item in items if isinstance(item, str | list | tuple))
        return _ITEM * len(value) + size * max(1, len(value) // _LOOKED_AT)
    return value.bit_length() // 3 if isinstance(value, int) else 0


def _grows(name: str, value: Any, args: Sequence[Any]) -> None:
    """Raises ConfigError if a method or filter could make too long a text."""
    numbers = [abs(arg) for arg in args if isinstance(arg, int) and not isinstance(arg, bool)]
    texts = sum(_size(arg) for arg in args if not isinstance(arg, int))
    if max(numbers, default=0) > LARGEST or (name == "format" and isinstance(value, str) and _WIDTH.search(value)):
        raise _limit(f"{name} with a very large number")
    pads = 1 if name in ("center", "ljust", "rjust", "zfill") else _size(value) + 1
    _within(name, pads * (max(texts, 1) if name != "tojson" else 1) * max([1, *numbers]))


def _look(operator: str, left: Any, right: Any) -> None:
    """Raises ConfigError if the result would be too large."""
    if operator == "+":
        _within("+", _size(left) + _size(right))
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
                _within("*", (_size(value) + 1) * max(times, 0))
        if isinstance(left, int) and isinstance(right, int):
            _within("*", _size(left) * _size(right))
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and abs(left) > 1:
            _within("**", 1000 * (_size(left) + 1) * max(right, 0))
    elif operator == "%" and isinstance(left, str):
        if _WIDTH.search(left):
            raise _limit("% with a very large width")
        _within("%", (len(left) + 1) * (_size(right) + 1))


def _within(what: str, characters: float) -> None:
    if characters > CHARACTERS:
        raise _limit(f"{what} would make a text of more than {CHARACTERS:,} characters")
