"""Answers to a list of prompts, for predict, chat and evaluation: closed batches through the one decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunery.generate.batcher import Batcher, Request
from tunery.generate.sampling import Sampling

__all__ = ["Sampling", "generate"]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    batch_size: int = 16,
    on_token: Callable[[int, int], None] | None = None,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
) -> list[list[int]]:
    """Answers to prompts, without the token that ended them. An answer also ends where the model's positions do.

    Args:
        prompts: token ids; none may be empty.
        stop_ids: ids that end an answer.
        on_token: called with (prompt index, token id) as tokens are chosen.
        progress: called with the number of prompts answered so far.
        first: number of the first prompt, where these are a part of more: what is sampled depends on the number.
    """
    sampling = sampling or Sampling()
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    was_training = model.training
    model.eval()
    batcher = Batcher(model, batch_size)
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index in batch:  # its number is its stream: equal prompts are sampled apart
                batcher.add(Request(prompts[index], sampling, frozenset(stop_ids), stream=first + index))
            while batcher.busy:
                for event in batcher.step():
                    if event.token is not None:
                        index = event.request.stream - first
                        answers[index].append(event.token.id)
                        if on_token:
                            on_token(index, event.token.id)
            if progress:
                progress(start + len(batch))
    finally:
        model.train(was_training)
    return answers
