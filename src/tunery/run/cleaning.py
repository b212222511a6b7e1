"""``data.clean`` applied to examples: the same steps for rows to train on, to test with and to predict.

Inputs are cleaned by every step; answers, and texts that answers are cut from, only by steps that leave the wording
alone. Labels, tags and system messages stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tunery import registry
from tunery.data.ledger import Ledger
from tunery.errors import ConfigError, DataError
from tunery.protocols import Cleaner, Example, Message, Strict

_WHERE = "data.clean"


@dataclass(slots=True)
class Cleaned:
    """What became of some rows, beside those of which nothing is left (they are bad rows)."""

    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    """Place, step and reason of the rows that a step leaves out."""
    changed: list[str] = field(default_factory=list)
    """Places of the rows that are not as they were."""

    def mark(self, ledger: Ledger, split: str) -> None:
        """Rows that are left out, and those that changed; the others must be in the ledger."""
        for where, step, reason in self.dropped:
            ledger.add(where, f"dropped:{step}", reason, split)
        for where in self.changed:
            ledger.mark(where, "cleaned", split=split)

    def refuse(self, split: str) -> None:
        """Raises DataError where no row of a split is left, if that is a step's doing."""
        if self.dropped:
            where, step, reason = self.dropped[0]
            problem = f"no {split} row is left after step {step}; the first: {reason}"
            raise DataError(problem, "change data.clean", where)


class Cleaning:
    """The steps in their order. Raises ConfigError: a package that a step needs is missing."""

    def __init__(self, steps: Sequence[Strict]) -> None:
        self.steps: list[Cleaner] = [registry.get("cleaner", getattr(step, "name", ""))(step) for step in steps]

    @property
    def notes(self) -> list[str]:
        return [f"data.clean: {step.note}" for step in self.steps if step.note]

    def one(self, example: Example) -> Example:
        """A row to predict: it is never left out. Raises DataError if nothing is left of it."""
        for step in self.steps:
            example = _applied(example, step)
        return example

    def message(self, message: Message) -> Message:
        """One turn of a conversation."""
        return self.one(Example("<conversation>", 1, messages=(message,))).messages[0]

    def row(self, example: Example, record: Cleaned, leave_out: bool = True) -> Example | None:
        """A row of a file, noted in ``record`` if it changes; None where a step leaves it out.

        ``leave_out``: steps may do so (rows to predict stay). Raises DataError if nothing is left of the row.
        """
        if not self.steps:
            return example
        now = example
        for step in self.steps:
            reason = step.drops(now.input_text) if leave_out else None
            if reason is not None:
                record.dropped.append((example.where, step.name, reason))
                return None
            now = _applied(now, step)
        if now != example:
            record.changed.append(example.where)
        return now


def _applied(example: Example, step: Cleaner) -> Example:
    """Raises ConfigError: a step that cannot clean such rows. DataError: nothing is left."""
    if not step.changes:
        return example
    _refuse(example, step)
    if example.text_pair is not None and (example.starts or example.references):
        return _with_spans(example, step)
    messages = tuple(
        Message(m.role, _text(m.content, step, m.role, example))
        if m.role == "user" or (m.role == "assistant" and step.answers)
        else m
        for m in example.messages
    )
    pair = example.text_pair
    answers = step.clean if step.answers else _same
    return replace(
        example,
        messages=messages,
        text=_text(example.text, step, "text", example),
        text_pair=None if pair is None else _text(pair, step, "text_pair", example),
        references=tuple(answers(text) for text in example.references),
        contains=tuple(answers(text) for text in example.contains),
    )


def _same(text: str) -> str:
    return text


def _refuse(example: Example, step: Cleaner) -> None:
    safe = ", ".join(name for name in registry.names("cleaner") if registry.get("cleaner", name).answers)
    if example.words:
        problem = f"step {step.name} cannot clean lists of words: each has its tag"
        raise ConfigError(problem, "clean the file itself, or leave the step out", _WHERE)
    if (example.starts or (example.references and example.text_pair is not None)) and not step.answers:
        problem = f"step {step.name} would change texts that answers are cut from"
        raise ConfigError(problem, f"use steps that leave the wording alone: {safe}", _WHERE)


def _text(text: str, step: Cleaner, what: str, example: Example) -> str:
    cleaned = step.clean(text)
    if text.strip() and not cleaned.strip():
        problem = f"cleaning leaves nothing of the row ({what}, step {step.name})"
        raise DataError(problem, "correct the row or change data.clean", example.where)
    return cleaned


def _with_spans(example: Example, step: Cleaner) -> Example:
    """Answers are found again in the cleaned text, at the place nearest to where they were."""
    before = example.text_pair or ""
    context = _text(before, step, "context", example)
    references = tuple(step.clean(text) for text in example.references)
    starts = tuple(
        start if start < 0 else _found(text, context, len(step.clean(before[:start])), example)
        for text, start in zip(references, example.starts, strict=False)
    )
    question = _text(example.text, step, "question", example)
    return replace(example, text=question, text_pair=context, references=references, starts=starts)


def _found(answer: str, context: str, near: int, example: Example) -> int:
    places = [context.find(answer, near), context.rfind(answer, 0, near + len(answer))]
    places = [place for place in places if place >= 0]
    if not places:
        problem = f"the answer {answer!r} is not in the cleaned context"
        raise DataError(problem, "correct the row or change data.clean", example.where)
    return min(places, key=lambda place: abs(place - near))
