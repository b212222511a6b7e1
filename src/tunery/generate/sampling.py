"""Choosing the next token, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunery.protocols import SOFT

SEED_RANGE = 1 << 63
COLDEST = 1e-6
"""Temperature from which on down the likeliest token is chosen anyway; less would only overflow."""
NUCLEUS = 256
"""Tokens among which the likeliest ones are looked for first: sorting a vocabulary of 49,152 takes 3 ms a row."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. ``temperature`` 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was chosen."""

    id: int
    logprob: float | None = None
    """Natural logarithm, in the model's own distribution: before temperature, top_p and the penalty. None unless
    asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, logprob), the most probable first; empty unless asked for."""


def generator(sampling: Sampling, stream: int, device: torch.device) -> torch.Generator | None:
    """A generator of each row's own: its text depends on the seed, not on the batch it was in."""
    if sampling.temperature == 0:
        return None
    return torch.Generator(device).manual_seed((sampling.seed * 1_000_003 + stream) % SEED_RANGE)


def choose(logits: Tensor, sampling: Sampling, seen: Sequence[int], random: torch.Generator | None) -> int:
    """The next token of one row. logits: [vocabulary], fp32; seen: what the row has read and written."""
    if sampling.repetition_penalty != 1.0:
        known = torch.tensor(sorted({t for t in seen if t < SOFT}), dtype=torch.long, device=logits.device)
        values = logits[known]
        penalty = sampling.repetition_penalty
        logits = logits.index_copy(0, known, torch.where(values > 0, values / penalty, values * penalty))
    if random is None:
        return int(logits.argmax())
    logits = (logits - logits.max()) / max(sampling.temperature, COLDEST)
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return int(torch.multinomial(probabilities, 1, generator=random))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero beyond the likeliest tokens that hold ``top_p`` together (Holtzman et al. 2020, arXiv:1904.09751)."""
    ordered, order = probabilities.topk(min(NUCLEUS, len(probabilities)))
    if float(ordered.sum()) < top_p:
        ordered, order = probabilities.sort(descending=True)
    kept = ordered.cumsum(0) - ordered < top_p  # the token that crosses top_p stays
    return torch.zeros_like(probabilities).index_copy_(0, order[kept], ordered[kept])


def tell(logits: Tensor, chosen: int, wanted: int | None) -> Token:
    """A chosen token with what was asked for. logits: [vocabulary], as the model gave them; ``wanted``: how many of the
    most probable tokens to name, None for no probabilities at all.
    """
    if wanted is None:
        return Token(chosen)
    shares = logits.log_softmax(-1)
    values, ids = shares.topk(min(wanted, len(shares)))
    return Token(chosen, float(shares[chosen]), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
