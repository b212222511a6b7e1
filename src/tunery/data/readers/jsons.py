"""JSON: one object a line, one array of objects, or SQuAD's nested object. Numbers, booleans, lists and null stay
what they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunery.data.readers import BOM, UTF8_HINT, BadRow, Record, lines, nested, not_utf8
from tunery.errors import DataError
from tunery.protocols import Row

LINE_HINT = "every line must be one JSON object"
_SPACE = re.compile(r"[ \t\r\n]*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # may be half of a surrogate pair; worth a closer look


class _RepeatedKeyError(ValueError):
    """An object that has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice json keeps the last: that would lose data without a word."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def read(path: Path, name: str) -> Iterator[Record]:
    """Content decides between lines, array and nested. Raises DataError if the array as a whole is broken."""
    if (whole := _nested(path, name)) is not None:
        yield from nested.rows(whole, name)
        return
    if _is_array(path, name):
        yield from _array(path, name)
        return
    for number, line in lines(path):
        where = f"{name}:{number}"
        if line is None:
            yield not_utf8(where)
        elif line.strip(" \t\r"):
            yield _row(line, name, number)


def _nested(path: Path, name: str) -> dict[str, Any] | None:
    """The file as one object of SQuAD's form, or None if it is anything else."""
    filled = (line for _, line in lines(path) if line is None or line.strip())
    first, second = next(filled, None), next(filled, None)
    if first is None or not first.lstrip().startswith("{"):
        return None
    if second is not None and first.rstrip().endswith("}"):  # one object a line
        return None
    try:
        whole = _DECODER.decode(_whole(path, name).strip())
    except (ValueError, RecursionError, DataError):  # other readers tell what is wrong
        return None
    return whole if nested.is_nested(whole) else None


def _is_array(path: Path, name: str) -> bool:
    """Raises DataError for an object that is spread over lines: neither of the two."""
    filled = ((number, line) for number, line in lines(path) if line is None or line.strip())
    number, first = next(filled, (1, ""))
    first = (first or "").strip()
    if first == "{":
        raise DataError(
            "JSON spread over several lines, not one object a line",
            "write one object a line (jq -c . FILE), or an array of objects",
            f"{name}:{number}",
        )
    if not first.startswith("["):
        return False
    if next(filled, None) is None:
        return True
    try:
        _DECODER.decode(first)
    except (ValueError, RecursionError):
        return True
    return False  # a whole list in the first of several lines: lines, of which that one is bad


def _row(line: str, name: str, number: int) -> Record:
    where = f"{name}:{number}"
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return BadRow(where, _reason(error), LINE_HINT)
    return _checked(value, line, name, number)


def _checked(value: Any, source: str, name: str, number: int) -> Record:
    where = f"{name}:{number}"
    if not isinstance(value, dict):
        return BadRow(where, f"not an object but {_kind(value)}", 'write {"column": value, …}')
    if not value:
        return BadRow(where, "an object without columns", LINE_HINT)
    if _HALF.search(source):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except (UnicodeEncodeError, RecursionError):
            return BadRow(where, "half a surrogate pair (\\ud800 to \\udfff), which is no character", "correct it")
    return Row(value, name, number)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        message = error.msg[:1].lower() + error.msg[1:]
        return f"not JSON: {message} (column {error.colno})"
    if isinstance(error, _RepeatedKeyError):
        return f"the key {str(error)!r} stands twice in one object"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number with too many digits"  # Python's limit for int(), the only other ValueError


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {str: "a string", bool: "a boolean", list: "a list", type(None): "null"}
    return kinds.get(type(value), "a number")


def _array(path: Path, name: str) -> Iterator[Record]:
    """The elements one after the other: the text is held in memory, their objects are not.

    A place must be one row's: of elements on the same line the second gets the next line's number, and so on.
    In an array that is all on one line the number is thus that of the element.

    Raises DataError where the array's own syntax breaks: there is no telling which rows would follow.
    """
    text = _whole(path, name)
    position, number, counted, last = _skip(text, text.index("[") + 1), 1, 0, 0
    while True:
        number, counted = number + text.count("\n", counted, position), position
        if text[position : position + 1] == "]" and not last:
            end = position
            break
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (_RepeatedKeyError, RecursionError) as error:
            raise DataError(_reason(error), "correct that row", f"{name}:{number}") from None
        except json.JSONDecodeError as error:
            raise DataError(_reason(error), "correct that row", f"{name}:{error.lineno}") from None
        except ValueError as error:
            raise DataError(_reason(error), "correct that row", f"{name}:{number}") from None
        last = max(number, last + 1)
        yield _checked(value, text[position:end], name, last)
        end = _skip(text, end)
        if text[end : end + 1] != ",":
            break
        position = _skip(text, end + 1)
    number += text.count("\n", counted, end)
    if text[end : end + 1] != "]":
        raise DataError(
            "the array is not closed, or a comma is missing", "one [ … ] around all rows", f"{name}:{number}"
        )
    if _skip(text, end + 1) != len(text):
        raise DataError("more text after the end of the array", "one [ … ] around all rows", f"{name}:{number}")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _whole(path: Path, name: str) -> str:
    raw = path.read_bytes().removeprefix(BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError("not UTF-8 text", UTF8_HINT, f"{name}:{line}") from None
