"""JSON: one object a line, one array of objects, an object that holds such an array, or SQuAD's nested object.
Numbers, booleans, lists and null stay what they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tunery.data.columns import familiar
from tunery.data.readers import SKIPPED, BadRow, Record, broken_text, lines, nested, undecodable
from tunery.data.source import Source
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


def read(source: Source) -> Iterator[Record]:
    """Content decides between lines, array and nested. Raises DataError if the array as a whole is broken."""
    if (found := _one_object(source)) is not None:
        text, whole = found
        if nested.is_nested(whole):
            yield from nested.rows(whole, source.name)
            return
        if (start := _list_in(text, whole, source)) is not None:
            yield from _array(text, start, source.name)
            return
    if _is_array(source):
        text = _whole(source)
        yield from _array(text, text.index("["), source.name)
        return
    yield from _lines(source)


def _lines(source: Source) -> Iterator[Record]:
    """One object a line. Lines that another process reads are not even decoded."""
    record = 0
    with source.open() as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip(b" \t\r\n"):
                continue
            if source.share is not None and not source.share.has(record):
                yield SKIPPED
            else:
                try:
                    yield _row(raw.decode("utf-8").rstrip("\r\n"), source.name, number)
                except UnicodeDecodeError:
                    yield broken_text(source, number)
            record += 1


def _one_object(source: Source) -> tuple[str, dict[str, Any]] | None:
    """The text of a file that is one JSON object, and that; None if the file is anything else."""
    filled = (line for _, line in lines(source) if line is None or line.strip())
    first, second = next(filled, None), next(filled, None)
    if first is None or not first.lstrip().startswith("{"):
        return None
    if second is not None and first.rstrip().endswith("}"):  # one object a line
        return None
    try:
        text = _whole(source)
        return text, _DECODER.decode(text.strip(" \t\r\n"))
    except (ValueError, RecursionError, DataError):  # other readers tell what is wrong
        return None


def _list_in(text: str, whole: dict[str, Any], source: Source) -> int | None:
    """Where the list of rows begins in an object that holds one; None: the object is a row itself.

    Raises DataError if there are several such lists.
    """
    lists = [key for key, value in whole.items() if isinstance(value, list) and any(isinstance(v, dict) for v in value)]
    meant = [key for key in lists if key.lower() in nested.CONTAINERS]
    if not meant and (any(map(familiar, whole)) or not lists):
        return None
    chosen = meant or lists
    if len(chosen) > 1:
        names = ", ".join(map(repr, chosen))
        raise DataError(f"several lists of rows: {names}", "write each to a file of its own", source.name)
    source.say(f"the rows are the list under {chosen[0]!r}")
    position = _skip(text, text.index("{") + 1)
    while True:
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # the colon
        if key == chosen[0]:
            return position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # the comma


def _is_array(source: Source) -> bool:
    """Raises DataError for an object that is spread over lines: neither of the two."""
    filled = ((number, line) for number, line in lines(source) if line is None or line.strip())
    number, first = next(filled, (1, ""))
    first = (first or "").strip()
    if first == "{":
        raise DataError(
            "JSON spread over several lines, not one object a line",
            "write one object a line (jq -c . FILE), or an array of objects",
            f"{source.name}:{number}",
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


def _array(text: str, start: int, name: str) -> Iterator[Record]:
    """The elements one after the other: the text is held in memory, their objects are not. The array may be a value
    in an object, whose end nobody looks at: it has been decoded before.

    A place must be one row's: of elements on the same line the second gets the next line's number, and so on.
    In an array that is all on one line the number is thus that of the element.

    Raises DataError where the array's own syntax breaks: there is no telling which rows would follow.
    """
    position, number, counted, last = _skip(text, start + 1), 1, 0, 0
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
    if _skip(text, end + 1) != len(text) and not text.lstrip().startswith("{"):
        raise DataError("more text after the end of the array", "one [ … ] around all rows", f"{name}:{number}")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _whole(source: Source) -> str:
    with source.open() as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(*undecodable(source), f"{source.name}:{line}") from None
