"""Tokenise many rendered conversations, each of their pieces once.

A special token cuts a text in two before anything else looks at it, so the tokens of a text are those of its pieces:
what stands before the first special token, then each special token with what follows it. Pieces that many texts share
(the system prompt, what asks for an answer) are tokenised once, and where a piece has the tokens of its beginning for
a beginning, a place in the text is a place between two tokens without asking for offsets, which cost a quarter.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = list[tuple[int, int]]


@lru_cache(maxsize=4)
def _special(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Finds the tokens that cut a text as they stand in it; None if one takes white space around it along."""
    added = tokenizer.added_tokens_decoder.values()
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    names = sorted((token.content for token in added if not token.normalized), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or "(?!)")


def tokenise(
    texts: Sequence[tuple[str, Sequence[tuple[int, int]]]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], Spans] | None]:
    """→ ids of each text, and its spans in tokens instead of characters.

    Args:
        texts: each with [start, end) of places in it.

    None instead of a text in which a token reaches over the end of a span: offsets must tell then. No BOS is added.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    special = _special(tokenizer) if backend is not None else None
    if special is None:
        return [None] * len(texts)
    cuts = [[0, *(match.start() for match in special.finditer(text) if match.start())] for text, _ in texts]
    known: dict[str, int] = {}
    plans = []
    for (text, spans), begins in zip(texts, cuts, strict=True):
        ends = [*begins[1:], len(text)]
        pieces = [known.setdefault(text[begin:end], len(known)) for begin, end in zip(begins, ends, strict=True)]
        heads = {}
        for place in {place for span in spans for place in span}:
            number = bisect_right(begins, place) - 1
            heads[place] = (number, known.setdefault(text[begins[number] : place], len(known)))
        plans.append((pieces, heads))
    backend.no_truncation()
    backend.no_padding()
    ids = [encoding.ids for encoding in backend.encode_batch_fast(list(known), add_special_tokens=False)]
    return [_put_together(ids, *plan, spans) for plan, (_, spans) in zip(plans, texts, strict=True)]


def _put_together(
    ids: Sequence[list[int]],
    pieces: Sequence[int],
    heads: dict[int, tuple[int, int]],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[int], Spans] | None:
    whole: list[int] = []
    begins = []
    for piece in pieces:
        begins.append(len(whole))
        whole += ids[piece]
    places = {}
    for place, (number, head) in heads.items():
        before = ids[head]
        if ids[pieces[number]][: len(before)] != before:
            return None
        places[place] = begins[number] + len(before)
    return whole, [(places[start], places[end]) for start, end in spans]
