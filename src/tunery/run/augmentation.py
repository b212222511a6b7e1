"""``data.augment``: changed copies of training rows, made after validation rows are held out.

A copy keeps its row's place, label and answer, and names the step that made it (``Example.copy``). The same rows and
seed give the same copies, wherever the files are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tunery import registry
from tunery.data.rows import Rows, fingerprint
from tunery.errors import ConfigError
from tunery.protocols import Augmenter, Example, Message, Strict

_TRIES = 4
"""A copy that equals a row there is (two words have one swap only) is tried again so often, then left out."""


class Augmentation:
    """The steps. Raises ConfigError or DataError: what a step needs is missing or wrong."""

    def __init__(self, steps: Sequence[Strict]) -> None:
        self.steps: list[Augmenter] = [registry.get("augmenter", getattr(step, "name", ""))(step) for step in steps]

    @property
    def files(self) -> list[str]:
        """Files that the steps read."""
        return list(dict.fromkeys(file for step in self.steps for file in step.files))

    def add(self, splits: dict[str, Rows], seed: int) -> str:
        """Put the copies behind the rows of ``splits["train"]`` → a note. A copy that is a row of any split, or
        another copy, is not made: it could stand in validation or test, or have another label.

        Raises ConfigError for rows that a changed text would break.
        """
        rows = splits["train"]
        known = {mark for part in splits.values() for mark in part.inputs.tolist()}
        first = len(rows.store)
        counts: dict[str, int] = {}
        for number, step in enumerate(self.steps):
            before = len(rows.store)
            for example in rows:
                _refuse(example, step)
                for copy in _copies(example, step, f"{seed}/{number}", known):
                    rows.store.append(copy)
            counts[step.name] = counts.get(step.name, 0) + len(rows.store) - before
        made = np.arange(first, len(rows.store))
        splits["train"] = Rows(rows.store, np.concatenate([rows.indices, made]))
        told = ", ".join(f"{count} by {step}" for step, count in counts.items())
        return f"train: {len(made)} augmented copies ({told})"


def _copies(example: Example, step: Augmenter, seed: str, known: set[int]) -> Iterator[Example]:
    for copy in range(step.config.copies):
        # the file's name is no part of it: resuming reads the same file by its absolute path
        pick = random.Random(f"{seed}/{step.name}/{copy}/{example.line}/{example.input_text}")
        for _ in range(_TRIES):
            made = _changed(example, step, pick)
            mark = fingerprint(made)
            if made.input_text.strip() and mark not in known:
                known.add(mark)
                yield made
                break


def _changed(example: Example, step: Augmenter, pick: random.Random) -> Example:
    """The last question of a conversation, or the texts; a context that answers are cut from stays."""

    def new(text: str) -> str:
        return step.augment(text, pick) or text

    if example.messages:
        turns = list(example.messages)
        last = max(place for place, turn in enumerate(turns) if turn.role == "user")
        turns[last] = Message("user", new(turns[last].content))
        return replace(example, messages=tuple(turns), copy=step.name)
    pair = example.text_pair
    if pair is not None and not example.references:
        pair = new(pair)
    return replace(example, text=new(example.text), text_pair=pair, copy=step.name)


def _refuse(example: Example, step: Augmenter) -> None:
    if example.words:
        problem = f"step {step.name} would part words from their tags"
    elif example.messages or example.references or example.label is not None:
        return
    else:
        problem = f"step {step.name} would change what is learnt: these rows are texts without a label or an answer"
    raise ConfigError(problem, "leave data.augment out for such rows", "data.augment")
