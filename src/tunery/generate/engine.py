"""The one decoder. predict, chat and evaluation submit prompts; it answers them in batches.

Prompts are padded on the left, positions are counted from each row's first real token and padding is masked,
so a row's text does not depend on its neighbours. Finished rows leave the batch at once. An encoder-decoder reads its
prompts once, padded on the right, and writes from its start token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunery.errors import ModelError
from tunery.protocols import SOFT


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
    """What the decoder has read and written."""
    random: torch.Generator | None


class _Decoder:
    """A batch that a decoder goes on with: what its next step reads."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        from transformers import DynamicCache

        self.read = [list(prompt) for prompt in prompts]
        self.model = model
        self.ids, self.mask = _pad(prompts, device, left=True)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache: Any = DynamicCache(config=model.config)

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next token, in fp32."""
        out = self.model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]

    def write(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row."""
        self.ids = torch.tensor(tokens, device=self.mask.device).unsqueeze(1)
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], 1)
        self.positions = self.positions[:, -1:] + 1


class _EncoderDecoder:
    """A batch whose prompts the encoder reads, once, and whose answers the decoder writes."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        start = model.config.decoder_start_token_id
        if start is None:
            raise ModelError("the model has no decoder_start_token_id to begin an answer with", "set it in config.json")
        self.read = [[int(start)] for _ in prompts]
        self.model = model
        source, self.mask = _pad(prompts, device, left=False)
        self.source: dict[str, Any] = {"input_ids": source}
        self.ids = source.new_full((len(prompts), 1), int(start))
        self.cache: Any = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next token, in fp32."""
        from transformers.modeling_outputs import BaseModelOutput

        out = self.model(
            **self.source,
            attention_mask=self.mask,
            decoder_input_ids=self.ids,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.source = {"encoder_outputs": BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state)}
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        encoded = self.source["encoder_outputs"]
        encoded.last_hidden_state = encoded.last_hidden_state[rows]

    def write(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row."""
        self.ids = torch.tensor(tokens, device=self.mask.device).unsqueeze(1)


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
    device = next(model.parameters()).device
    longest = _positions(model.config)
    kind = _EncoderDecoder if model.config.is_encoder_decoder else _Decoder
    state = kind(model, [prompts[i] for i in batch], device)
    rows = [_Row(i, read, _random(sampling, i, device)) for i, read in zip(batch, state.read, strict=True)]
    for _ in range(sampling.max_new_tokens):
        chosen = _choose_all(state.logits(), rows, sampling)
        going = [i for i, token in enumerate(chosen) if token not in stop]
        for i in going:
            rows[i].tokens.append(chosen[i])
            yield rows[i].index, chosen[i]
        going = [i for i in going if len(rows[i].tokens) <= longest]
        if not going:
            return
        if len(going) < len(rows):
            state.keep(torch.tensor(going, device=device))
            rows, chosen = [rows[i] for i in going], [chosen[i] for i in going]
        state.write(chosen)


def _positions(config: Any) -> int:
    """The longest text, question and answer together, that a model can read."""
    found = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    return min((n for n in found if isinstance(n, int)), default=1 << 30)


def _pad(prompts: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[Tensor, Tensor]:
    """→ ids, mask: [rows, length]."""
    longest = max(len(p) for p in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        part = slice(longest - len(prompt), longest) if left else slice(len(prompt))
        ids[i, part] = torch.tensor(list(prompt))
        mask[i, part] = 1
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
        seen = torch.tensor(sorted({t for t in row.tokens if t < SOFT}), dtype=torch.long, device=logits.device)
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
