"""Checks of cell types that the formats share.

All raise DataError with the row's place; the problem names the column, what is in it and what is needed.
"""

from __future__ import annotations

import difflib
import json
import math
from typing import Any

from tunery.errors import DataError
from tunery.protocols import Message, Row

_INVISIBLE = "\u200b\u2060\ufeff"  # zero-width characters that str.strip() leaves alone
_SHOWN = 40  # characters of a wrong value in a message


def blank(value: str) -> bool:
    if value[:1].isalnum():
        return False
    return not value.strip().strip(_INVISIBLE).strip()


def absent(row: Row, column: str) -> bool:
    """No such column in this row, null, or blank text."""
    value = row.values.get(column)
    return value is None or (isinstance(value, str) and blank(value))


def describe(value: Any) -> str:
    """What a value is, for an error message: ``a number (3.5)``."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return f"a boolean ({'true' if value else 'false'})"
    if isinstance(value, int | float):
        try:
            shown = str(value)
        except ValueError:  # an int beyond Python's limit of digits
            shown = "very large"
        return f"a number ({shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'})"
    if isinstance(value, str):
        return f"text ({value[:_SHOWN]!r})"
    return "a list" if isinstance(value, list) else "an object"


def text(row: Row, column: str) -> str:
    """Text that is not blank."""
    value = row.values.get(column)
    if value is None:
        raise missing(row, column)
    if not isinstance(value, str):
        raise wrong(row, column, value, "text")
    if blank(value):
        raise DataError(f"column {column!r} is blank", "fill it in or remove the row", row.where)
    return value


def optional_text(row: Row, column: str) -> str | None:
    """Text, or None where there is none."""
    return None if absent(row, column) else text(row, column)


def texts(row: Row, column: str) -> tuple[str, ...]:
    """Several texts: a list, one text alone, or a JSON list in a CSV cell. Empty where there are none."""
    if absent(row, column):
        return ()
    value = unpacked(row.values[column])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise wrong(row, column, value, "text or a list of texts")
    for item in items:
        if not isinstance(item, str):
            raise DataError(
                f"column {column!r} has {describe(item)} in its list, text is needed", "quote it", row.where
            )
        if blank(item):
            raise DataError(f"column {column!r} has a blank text in its list", "remove it", row.where)
    return tuple(items)


def label(row: Row, column: str) -> str | tuple[str, ...]:
    """A label as text, several as a tuple: ``3`` → "3", ``true`` → "true". A list may be empty (none applies)."""
    if absent(row, column):
        raise missing(row, column, "a label")
    value = unpacked(row.values[column])
    if isinstance(value, list):
        # dict.fromkeys: a label named twice counts once
        return tuple(dict.fromkeys(_label(row, column, item) for item in value))
    return _label(row, column, value)


def _label(row: Row, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    if isinstance(value, str) and not blank(value):
        return value
    raise wrong(row, column, value, "a label (text, number, true or false, or a list of them)")


def unpacked(value: Any, of: type = str) -> Any:
    """A CSV cell cannot hold a list: ``["a", "b"]`` in it is read as one; anything else stays as it is.

    Only a list of ``of`` alone counts, so that a text like ``[1]`` stays a text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) and all(isinstance(item, of) for item in found) else value
    return value


def conversation(
    system: str | None, user: str, answer: str | None, history: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    """One question, with its answer if there is one; ``history`` comes before it."""
    first = (Message("system", system),) if system is not None else ()
    last = (Message("assistant", answer),) if answer is not None else ()
    return (*first, *history, Message("user", user), *last)


def references(answer: str | None, others: tuple[str, ...]) -> tuple[str, ...]:
    """Every accepted answer once, the one to learn first."""
    return tuple(dict.fromkeys(([] if answer is None else [answer]) + list(others)))


def missing(row: Row, column: str, need: str = "text") -> DataError:
    close = difflib.get_close_matches(column, [key for key in row.values if key != column], n=1, cutoff=0.6)
    if column in row.values:
        hint = "fill it in or remove the row"
    elif close:
        hint = f"did you mean {close[0]!r}? then set data.columns.{column}={close[0]}"
    else:
        hint = f"this row has the columns {', '.join(map(repr, row.values))}"
    state = "is empty" if column in row.values else "is missing"
    return DataError(f"column {column!r} {state}, {need} is needed", hint, row.where)


def wrong(row: Row, column: str, value: Any, need: str) -> DataError:
    hint = f'write it in quotes: "{value}"' if isinstance(value, int | float) and need == "text" else f"give {need}"
    return DataError(f"column {column!r} is {describe(value)}, {need} is needed", hint, row.where)
