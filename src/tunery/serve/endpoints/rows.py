"""Texts that are scored in chunks between the engine's steps, so that a long list does not stop what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from tunery.data import soft
from tunery.evaluate import loss_and_outputs
from tunery.protocols import Encoded, Example, Message
from tunery.serve import generation, state
from tunery.serve.problems import Problem
from tunery.serve.state import Serving
from tunery.serve.worker import Served

T = TypeVar("T")
R = TypeVar("R")


class Swapped(Exception):
    """The name stands for another run than when the request began."""


async def by_one_run(
    serving: Serving, name: str, items: Sequence[T], work: Callable[[Served, Sequence[T]], list[R]]
) -> tuple[Served, list[R]]:
    """``work`` of all items, in order, all by the same run; begun again if the name is swapped meanwhile.

    Raises Problem: it took too long.
    """
    try:
        async with asyncio.timeout(serving.limits.timeout):
            for _ in range(generation.SWAPS):
                served = serving.served(name)
                try:
                    return served, await _in_chunks(serving, served, items, work)
                except Swapped:
                    continue
    except TimeoutError:
        raise Problem(504, f"It took more than {serving.limits.timeout:g} s", None, "timeout") from None
    raise Problem(503, f"{name} is being swapped all the time", "model", "swapping", 1)


async def _in_chunks(
    serving: Serving, expected: Served, items: Sequence[T], work: Callable[[Served, Sequence[T]], list[R]]
) -> list[R]:
    def chunk(served: Served, part: Sequence[T]) -> list[R]:
        if served is not expected:
            raise Swapped
        return work(served, part)

    found: list[R] = []
    for start in range(0, len(items), serving.limits.chunk):
        part = items[start : start + serving.limits.chunk]
        found += await asyncio.wrap_future(serving.worker.call(expected.name, partial(chunk, part=part)))
    return found


def encode(served: Served, number: int, text: str, pair: str | None = None) -> tuple[Example, list[Encoded]]:
    """A text, or two, as the run reads them."""
    example = Example("input", number + 1, messages=(Message("user", text),), text=text, text_pair=pair)
    example = served.run.cleaning.one(example)
    tuned = served.tuned
    return example, soft.encode(tuned.task, example, tuned.tokenizer, state.settings(served).max_length)


def predictions(served: Served, encoded: Sequence[tuple[Example, list[Encoded]]]) -> list[Any]:
    """One prediction an example."""
    rows = []
    for number, (_, windows) in enumerate(encoded):
        for row in windows:
            row.row = number
        rows += windows
    tuned = served.tuned
    pad = tuned.tokenizer.pad_token_id or 0
    found = loss_and_outputs(tuned.model, tuned.task, rows, pad, state.settings(served))[2]
    return tuned.task.combine(rows, found, [example for example, _ in encoded])
