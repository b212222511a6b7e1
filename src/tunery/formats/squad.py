"""Questions whose answer stands in a text: extractive question answering."""

from __future__ import annotations

import json
from typing import Any

from tunery.data import cells
from tunery.errors import DataError
from tunery.protocols import Example, Format, Row

_NEED = 'texts, {"text": […], "answer_start": […]} or [{"text": …, "answer_start": …}]'
_PARTS = {"text", "answer_start"}


class Squad(Format):
    """``{"context": "Paris is in France.", "question": "Where is Paris?", "answers": ["France"]}``.

    ``answers`` may carry the place in characters, as SQuAD's do: ``{"text": ["France"], "answer_start": [12]}`` or
    ``[{"text": "France", "answer_start": 12}]``. Without a place (or with a wrong one, as CMRC 2018 has some) the
    first occurrence counts. ``answer`` is the one to learn where it is not the first of ``answers``. A question
    without answer has ``is_impossible: true``, or an ``answers`` object with empty lists.
    """

    summary = "a question and a text that contains its answer (SQuAD, CMRC 2018), nested SQuAD JSON too"
    columns = ("context", "question", "answers")
    optional = ("answer", "answer_start", "is_impossible")
    targets = ("answers",)
    task = "extract_qa"

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError: a blank cell, a cell of the wrong type, no answer that stands in the context."""
        context, question = cells.text(row, "context"), cells.text(row, "question")
        pairs: list[tuple[str, int | None]] = []
        impossible = _impossible(row)
        if impossible or need_target or not cells.absent(row, "answers"):
            pairs, none = _answers(row)
            first = cells.optional_text(row, "answer")
            if first is not None:
                pairs = sorted([*pairs, (first, None)], key=lambda pair: pair[0] != first)
            impossible = impossible or (none and not pairs)
            if impossible and pairs:
                problem = "column 'is_impossible' is true, but there are answers"
                raise DataError(problem, "remove the answers or set it to false", row.where)
        starts = {text: _place(text, start, context) for text, start in reversed(pairs)}
        texts = tuple(dict.fromkeys(text for text, _ in pairs))
        if texts and need_target and max(starts.values()) < 0:
            problem = f"column 'answers': {texts[0][:60]!r} does not stand in the context"
            raise DataError(problem, "copy it from the context, or use task=instruct for free answers", row.where)
        return Example(
            row.file,
            row.line,
            text=question,
            text_pair=context,
            references=("",) if impossible else texts,
            starts=() if impossible else tuple(starts[text] for text in texts),
        )


def _impossible(row: Row) -> bool:
    if cells.absent(row, "is_impossible"):
        return False
    value = row.values["is_impossible"]
    value = {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise cells.wrong(row, "is_impossible", value, "true or false")
    return value


def _answers(row: Row) -> tuple[list[tuple[str, int | None]], bool]:
    """→ (answer, place if given) of each, and whether the row says that there is none."""
    value = row.values.get("answers")
    if isinstance(value, str) and value.lstrip().startswith(("{", "[{")):  # a CSV cell cannot hold an object
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise cells.wrong(row, "answers", value, _NEED) from None
    if isinstance(value, dict):
        texts, starts = (value.get(key) for key in ("text", "answer_start"))
        if not isinstance(texts, list) or (starts is not None and not _numbers(starts, len(texts))):
            raise cells.wrong(row, "answers", value, _NEED)
        return _checked(row, texts, starts), not texts
    if isinstance(value, list) and value and all(isinstance(item, dict) and item.keys() & _PARTS for item in value):
        places = [item.get("answer_start") for item in value]
        starts = places if _numbers(places, len(value)) else None
        return _checked(row, [item.get("text") for item in value], starts), False
    if _impossible(row) and (value in (None, "") or value == []):
        return [], True
    texts = list(cells.texts(row, "answers"))
    if not texts:
        raise cells.missing(row, "answers", "at least one answer")
    return _checked(row, texts, _starts(row, len(texts))), False


def _starts(row: Row, count: int) -> list[Any] | None:
    """The column ``answer_start``: a number, or one for each answer."""
    if cells.absent(row, "answer_start"):
        return None
    value = row.values["answer_start"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise cells.wrong(row, "answer_start", value, "a whole number for each answer") from None
    value = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    if not _numbers(value, count):
        raise cells.wrong(row, "answer_start", value, "a whole number for each answer")
    return list(value)


def _numbers(values: Any, count: int) -> bool:
    whole = isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    return whole and len(values) == count


def _checked(row: Row, texts: list[Any], starts: list[Any] | None) -> list[tuple[str, int | None]]:
    for text in texts:
        if not isinstance(text, str) or cells.blank(text):
            raise DataError("column 'answers' has an answer that is not text", "correct or remove it", row.where)
    return list(zip(texts, starts or [None] * len(texts), strict=True))


def _place(text: str, start: int | None, context: str) -> int:
    """Where the answer begins, -1 if it does not stand in the context."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    return context.find(text)
