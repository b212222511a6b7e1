"""What a model has read, and how it goes on: prompts that are read apart, and batches of rows that write.

A decoder's prompts are padded on the left, positions are counted from each row's first real token and padding is
masked, so a row's text does not depend on its neighbours. Rows join such a batch and leave it at any time. An
encoder-decoder reads its prompts once, padded on the right, and writes from its start token; such a batch is closed:
rows only leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunery.errors import ModelError
from tunery.generate.rows import RowCache


def positions(config: Any) -> int:
    """The longest text, question and answer together, that a model can read."""
    found = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    return min((n for n in found if isinstance(n, int)), default=1 << 30)


def open_to(config: Any) -> bool:
    """Whether rows may join a running batch: all that the model remembers is keys and values, one column a token."""
    if config.is_encoder_decoder or getattr(config, "num_kv_shared_layers", None):
        return False
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):  # its borders are columns, not positions
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)


def token_bytes(model: Any) -> int:
    """Memory of the keys and values of one token, about."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * next(model.parameters()).element_size())


def start_ids(config: Any, prompt: Sequence[int]) -> list[int]:
    """What the decoder has read when it chooses the first token. Raises ModelError."""
    if not config.is_encoder_decoder:
        return list(prompt)
    if config.decoder_start_token_id is None:
        raise ModelError("the model has no decoder_start_token_id to begin an answer with", "set it in config.json")
    return [int(config.decoder_start_token_id)]


class Reading:
    """Prompts that a decoder reads, all columns at once or some at a time."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.model = model
        self.lengths = [len(prompt) for prompt in prompts]
        self.ids, self.mask = pad(prompts, device, left=True)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.cache: Any = DynamicCache()
        self.done = 0
        # An index copies the last column; the slice that logits_to_keep=1 means would not lie in one piece, and torch
        # would multiply it by a copy of the head for each row: 4 s for six prompts of smollm2 instead of 0.3.
        self.last = torch.tensor([-1], device=device)

    def read(self, columns: int) -> Tensor | None:
        """Read so many columns more → once all are read, [rows, vocabulary] of the next token in fp32."""
        end = min(self.done + columns, self.ids.shape[1])
        part = slice(self.done, end)
        out = self.model(
            input_ids=self.ids[:, part],
            attention_mask=self.mask[:, :end],
            position_ids=self.positions[:, part],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=self.last,
        )
        self.done = end
        return out.logits[:, -1].float() if end == self.ids.shape[1] else None


class Open:
    """Rows that a decoder writes, and that others may join."""

    def __init__(self, model: Any, most: int, device: torch.device) -> None:
        self.model, self.device = model, device
        self.cache = RowCache(most)
        self.ids: list[int] = []
        self.seen: list[int] = []
        """Tokens of each row that the model has read."""

    def join(self, reading: Reading, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with these rows of what has been read, and with the tokens chosen for them."""
        lengths = [reading.lengths[row] for row in rows]
        self.cache.join(reading.cache, rows, lengths)
        self.ids += tokens
        self.seen += lengths

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next token, in fp32."""
        out = self.model(
            input_ids=torch.tensor(self.ids, device=self.device).unsqueeze(1),
            attention_mask=self.cache.mask(),
            position_ids=torch.tensor(self.seen, device=self.device).unsqueeze(1),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.advance()
        self.seen = [count + 1 for count in self.seen]
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows: ``order[i]`` becomes row i."""
        self.cache.keep(order)
        self.ids = [self.ids[row] for row in order]
        self.seen = [self.seen[row] for row in order]

    def write(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row."""
        self.ids = list(tokens)


class Closed:
    """Rows that begin together: of an encoder-decoder, or of a decoder that remembers more than keys and values."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self.model, self.device = model, device
        self.encodes: bool = model.config.is_encoder_decoder
        source, self.mask = pad(prompts, device, left=not self.encodes)
        self.ids, self.positions = source, (self.mask.cumsum(1) - 1).clamp(min=0)
        self.source: dict[str, Any] = {}
        self.cache: Any = DynamicCache(config=model.config)
        if self.encodes:
            self.source = {"input_ids": source}
            self.ids = torch.tensor([start_ids(model.config, prompt) for prompt in prompts], device=device)
            self.cache = EncoderDecoderCache(self.cache, DynamicCache(config=model.config))

    def logits(self) -> Tensor:
        """[rows, vocabulary] of the next token, in fp32."""
        settings = {"attention_mask": self.mask, "past_key_values": self.cache, "use_cache": True}
        if not self.encodes:
            last = torch.tensor([-1], device=self.device)  # see Reading
            out = self.model(input_ids=self.ids, position_ids=self.positions, logits_to_keep=last, **settings)
            return out.logits[:, -1].float()  # type: ignore[no-any-return]
        from transformers.modeling_outputs import BaseModelOutput

        out = self.model(**self.source, decoder_input_ids=self.ids, **settings)
        self.source = {"encoder_outputs": BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state)}
        return out.logits[:, -1].float()  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        """Go on with these rows: ``order[i]`` becomes row i."""
        rows = torch.tensor(order, device=self.device)
        self.cache.batch_select_indices(rows)
        self.ids, self.mask, self.positions = self.ids[rows], self.mask[rows], self.positions[rows]
        if self.source:
            encoded = self.source["encoder_outputs"]
            encoded.last_hidden_state = encoded.last_hidden_state[rows]

    def write(self, tokens: Sequence[int]) -> None:
        """The tokens that were chosen, one a row."""
        self.ids = torch.tensor(tokens, device=self.device).unsqueeze(1)
        if not self.encodes:
            self.mask = torch.cat([self.mask, self.mask.new_ones((len(tokens), 1))], 1)
            self.positions = self.positions[:, -1:] + 1


def pad(prompts: Sequence[Sequence[int]], device: torch.device, left: bool) -> tuple[Tensor, Tensor]:
    """→ ids, mask: [rows, length]."""
    longest = max(len(p) for p in prompts)
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for i, prompt in enumerate(prompts):
        part = slice(longest - len(prompt), longest) if left else slice(len(prompt))
        ids[i, part] = torch.tensor(list(prompt))
        mask[i, part] = 1
    return ids.to(device), mask.to(device)
