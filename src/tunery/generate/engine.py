"""The one decoder. predict, chat and evaluation submit prompts; it answers them in batches.

Prompts are padded on the left, positions are counted from each row's first real token and padding is masked,
so a row's text does not depend on its neighbours. Finished rows leave the batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. ``temperature`` 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class _Row:
    index: int
    tokens: list[int]
    random: torch.Generator | None


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    sampling: Sampling | None = None,
    batch_size: int = 16,
    on_token: Callable[[int, int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Answers to prompts, without the token that ended them. An answer also ends where the model's positions do.

    Args:
        prompts: token ids; none may be empty.
        stop_ids: ids that end an answer.
        on_token: called with (prompt index, token id) as tokens are chosen.
        progress: called with the number of prompts answered so far.
    """
    sampling = sampling or Sampling()
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            for index, token in _decode(model, prompts, batch, set(stop_ids), sampling):
                answers[index].append(token)
                if on_token:
                    on_token(index, token)
            if progress:
                progress(start + len(batch))
    finally:
        model.train(was_training)
    return answers


@torch.inference_mode()
def _decode(
    model: Any, prompts: Sequence[Sequence[int]], batch: Sequence[int], stop: set[int], sampling: Sampling
) -> Iterator[tuple[int, int]]:
    """Yields (prompt index, token) for one batch until all its rows are finished."""
    from transformers import DynamicCache

    device = next(model.parameters()).device
    longest = _positions(model.config)
    ids, mask = _pad_left([prompts[i] for i in batch], device)
    rows = [_Row(i, list(prompts[i]), _random(sampling, i, device)) for i in batch]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    for _ in range(sampling.max_new_tokens):
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chosen = _choose_all(out.logits[:, -1].float(), rows, sampling)
        going = [i for i, token in enumerate(chosen) if token not in stop]
        for i in going:
            rows[i].tokens.append(chosen[i])
            yield rows[i].index, chosen[i]
        going = [i for i in going if len(rows[i].tokens) <= longest]
        if not going:
            return
        if len(going) < len(rows):
            keep = torch.tensor(going, device=device)
            cache.batch_select_indices(keep)
            mask, positions = mask[keep], positions[keep]
            rows, chosen = [rows[i] for i in going], [chosen[i] for i in going]
        ids = torch.tensor(chosen, device=device).unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], 1)
        positions = positions[:, -1:] + 1


def _positions(config: Any) -> int:
    """The longest text, question and answer together, that a model can read."""
    found = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    return min((n for n in found if isinstance(n, int)), default=1 << 30)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(p) for p in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _random(sampling: Sampling, index: int, device: torch.device) -> torch.Generator | None:
    """A generator of each row's own: its text depends on the seed, not on the batch it was in."""
    if sampling.temperature == 0:
        return None
    return torch.Generator(device).manual_seed(sampling.seed * 1_000_003 + index)


def _choose_all(logits: Tensor, rows: Sequence[_Row], sampling: Sampling) -> list[int]:
    """The next token of each row. logits: [rows, vocabulary], fp32."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1.0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    return [_choose(one, row, sampling) for one, row in zip(logits, rows, strict=True)]


def _choose(logits: Tensor, row: _Row, sampling: Sampling) -> int:
    """The next token of one row. logits: [vocabulary], fp32."""
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(row.tokens)), device=logits.device)
        values = logits[seen]
        penalty = sampling.repetition_penalty
        logits = logits.index_copy(0, seen, torch.where(values > 0, values / penalty, values * penalty))
    if row.random is None:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if sampling.top_k:
        smallest = logits.topk(min(sampling.top_k, len(logits))).values[-1]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        beyond = ordered.cumsum(0) - ordered >= sampling.top_p  # the token that crosses top_p stays
        probabilities[order[beyond]] = 0
    return int(torch.multinomial(probabilities, 1, generator=row.random))
