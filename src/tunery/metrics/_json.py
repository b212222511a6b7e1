"""JSON objects in answers: what the metrics of field extraction share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any


def parsed(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, and nothing beside it; None if it is none.

    Strict, as a program that reads the answer would be: no text around it, no Python (``None``, ``NaN``, quotes
    that are not double), no key twice.

    >>> parsed('{"a": 1}'), parsed('Sure! {"a": 1}'), parsed("[1]"), parsed('{"a": NaN}')
    ({'a': 1}, None, None, None)
    """
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def fields(value: dict[str, Any]) -> Counter[tuple[str, str]]:
    """(path, value) of every leaf; the items of a list count one by one, whatever their order.

    >>> sorted(fields({"id": 7, "to": {"city": " Rome "}, "items": ["a", "b"]}))
    [('id', '7'), ('items', '"a"'), ('items', '"b"'), ('to.city', '"Rome"')]
    """
    return Counter(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, _written(value)


def _written(value: Any) -> str:
    """Equal for equal values: 3 and 3.0, and texts but for white space at the ends and between words."""
    if isinstance(value, str):
        value = " ".join(value.split())
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
