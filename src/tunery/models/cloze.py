"""Log-probabilities of words in the place of a cloze template, by masked, causal and encoder-decoder models.

A batch's rows hold some word in that place, ``batch["span"]`` [rows, 2] is its first and last position; it is replaced
here by masks, or by the words that are scored. All functions give [rows, words] in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tunery.models.heads import selected_logits, token_loss
from tunery.protocols import SOFT

Words = Sequence[tuple[int, ...]]


def masked_scores(model: Any, batch: dict[str, Tensor], words: Words, mask_id: int) -> Tensor:
    """Σ log p(word[i] | row with as many masks as the word has tokens): one forward pass for each length."""
    scores: dict[tuple[int, ...], Tensor] = {}
    for size in sorted({len(word) for word in words}):
        ids, mask, first = put(model, batch, (mask_id,) * size)
        shares = _log_shares(model, first, size, input_ids=ids, attention_mask=mask)
        scores |= {word: _sum(shares, word) for word in words if len(word) == size}
    return torch.stack([scores[word] for word in words], 1)


def causal_scores(model: Any, batch: dict[str, Tensor], words: Words) -> Tensor:
    """Σ log p(word[i] | what stands before, word[:i]); what follows the word is not read.

    Words of one token need one forward pass together, so do words that begin alike.
    """

    def shares(fed: tuple[int, ...]) -> Tensor:
        ids, mask, first = put(model, batch, fed, cut=True)
        return _log_shares(model, first - 1, len(fed) + 1, input_ids=ids, attention_mask=mask)

    return _by_feeds(words, shares)


def whole_scores(model: Any, batch: dict[str, Tensor], words: Words) -> Tensor:
    """Σ log p over the word and all that follows it, given what stands before: one forward pass a word.

    The probability of a text with a word in it is what a causal model knows of the word's fit to the text behind it.
    """
    scores = []
    for word in words:
        ids, mask, first = put(model, batch, word)
        places = torch.arange(ids.shape[1], device=ids.device)
        # a first token has nothing to be predicted from, a soft one is never predicted
        counted = (places >= first.clamp(min=1).unsqueeze(1)) & mask.bool() & (ids < SOFT)
        keep = F.pad(counted[:, 1:], (0, 1))
        logits = selected_logits(model, keep, input_ids=ids, attention_mask=mask)
        sizes = counted.sum(1).tolist()
        rows = zip(torch.split(logits, sizes), torch.split(ids[counted], sizes), strict=True)
        scores.append(torch.stack([-token_loss(logits, targets)[0] for logits, targets in rows]))
    return torch.stack(scores, 1)


def sentinel_scores(model: Any, batch: dict[str, Tensor], words: Words, sentinel: int) -> Tensor:
    """Σ log p(word[i] | row with T5's sentinel in the place; decoder: sentinel, word[:i])."""
    ids, mask, _ = put(model, batch, (sentinel,))
    begin = model.config.decoder_start_token_id

    def shares(fed: tuple[int, ...]) -> Tensor:
        written = ids.new_tensor([[begin, sentinel, *fed]]).expand(len(ids), -1)
        one = torch.ones(len(ids), dtype=torch.long, device=ids.device)
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written}
        return _log_shares(model, one, len(fed) + 1, **inputs)

    return _by_feeds(words, shares)


def next_shares(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities of what a causal model puts first in the place: [rows, vocabulary]."""
    ids, mask, first = put(model, batch, (), cut=True)
    return _log_shares(model, first - 1, 1, input_ids=ids, attention_mask=mask)[:, 0]


def marked_shares(model: Any, batch: dict[str, Tensor], mark: int) -> Tensor:
    """The same of masked models, ``mark`` being their mask, and of T5, where it is the sentinel."""
    ids, mask, first = put(model, batch, (mark,))
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.new_tensor([[model.config.decoder_start_token_id, mark]]).expand(len(ids), -1)
        first = torch.ones_like(first)
    return _log_shares(model, first, 1, **inputs)[:, 0]


def label_scores(scores: Tensor, owners: Sequence[int]) -> Tensor:
    """[rows, words] → [rows, labels]: log of the mean probability of a label's words (``owners``: label of each)."""
    found = []
    for label in range(max(owners) + 1):
        places = [n for n, owner in enumerate(owners) if owner == label]
        found.append(scores[:, places].logsumexp(1) - math.log(len(places)))
    return torch.stack(found, 1)


def put(
    model: Any, batch: dict[str, Tensor], fill: tuple[int, ...], cut: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Put ``fill`` into the place of every row, the same number of tokens whatever stood there.

    ``cut``: and nothing behind it. → ids, attention mask (padded on the right), first position of the place [rows].
    """
    old, (first, last) = batch["input_ids"], batch["span"].unbind(1)
    size = len(fill)
    begin, grown = first.unsqueeze(1), (size - 1 - last + first).unsqueeze(1)
    lengths = begin + size if cut else batch["attention_mask"].sum(1, keepdim=True) + grown
    places = torch.arange(int(lengths.max()), device=old.device).unsqueeze(0)
    source = torch.where(places < begin, places, places - grown)
    ids = old.gather(1, source.clamp(0, old.shape[1] - 1))
    if size:
        inside = (places >= begin) & (places < begin + size)
        filling = old.new_tensor(fill)[(places - begin).clamp(0, size - 1)]
        ids = torch.where(inside, filling, ids)
    mask = (places < lengths).long()
    padding = getattr(model.config, "pad_token_id", None) or 0
    return ids.masked_fill(mask == 0, padding), mask, first


def _log_shares(model: Any, first: Tensor, size: int, **inputs: Tensor) -> Tensor:
    """Log-probabilities at ``size`` positions of each row from ``first`` [rows] on: [rows, size, vocabulary], fp32."""
    read = inputs.get("decoder_input_ids", inputs["input_ids"])
    places = torch.arange(read.shape[1], device=read.device).unsqueeze(0)
    keep = (places >= first.unsqueeze(1)) & (places < first.unsqueeze(1) + size)
    logits = selected_logits(model, keep, **inputs)
    return logits.view(len(read), size, -1).float().log_softmax(-1)


def _sum(shares: Tensor, word: tuple[int, ...]) -> Tensor:
    """[rows, positions, vocabulary] → [rows]: the word's tokens at the first positions."""
    return torch.stack([shares[:, n, token] for n, token in enumerate(word)], 1).sum(1)


def _by_feeds(words: Words, shares: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    """Score words from as few forward passes as needed; a pass that is fed ``fed`` scores each word that it begins."""
    scores: dict[tuple[int, ...], Tensor] = {}
    for longest in sorted(words, key=len, reverse=True):
        if longest not in scores:
            fed = longest[:-1]
            found = shares(fed)
            scores |= {w: _sum(found, w) for w in words if w not in scores and fed[: len(w) - 1] == w[:-1]}
    return torch.stack([scores[word] for word in words], 1)
