"""SQuAD's nested JSON: ``{"data": [{"title": …, "paragraphs": [{"context": …, "qas": [{"question": …}]}]}]}``.

One question is one row with ``context``, ``question``, ``answers`` and, where the file has them, ``id``, ``title``
and ``is_impossible``. Such files are often one single line, so a place is the number of the question in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunery.data.readers import BadRow, Record
from tunery.protocols import Row

_HINT = 'SQuAD\'s form is {"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": […]}]}]}]}'


CONTAINERS = {"data", "examples", "rows", "items", "records", "instances", "samples", "dataset", "results", "数据"}
"""Keys under which files have their rows; other keys have to be strange to every format."""


def is_nested(value: Any) -> bool:
    """Whether a JSON object has that form (its first article is looked at)."""
    articles = value.get("data") if isinstance(value, dict) else None
    return (
        isinstance(articles, list)
        and bool(articles)
        and isinstance(articles[0], dict)
        and isinstance(articles[0].get("paragraphs"), list)
    )


def rows(value: Mapping[str, Any], name: str) -> Iterator[Record]:
    """The questions in order. What has another form is a bad row at the place of the next question."""
    number = 0
    for article in value["data"]:
        for paragraph in _list(article, "paragraphs"):
            for question in _list(paragraph, "qas"):
                number += 1
                if not isinstance(question, dict) or "context" not in paragraph:
                    yield BadRow(f"{name}:{number}", "a question or its context is missing", _HINT)
                    continue
                kept = {key: question[key] for key in ("id", "question", "answers", "is_impossible") if key in question}
                title = {"title": article["title"]} if "title" in article else {}
                yield Row({"context": paragraph["context"], **kept, **title}, name, number)


def _list(value: Any, key: str) -> list[Any]:
    """The list under a key; one broken item, told as a bad row, where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else [None]
