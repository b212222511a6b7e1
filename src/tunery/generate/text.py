"""Token ids → text, piece by piece, for whoever shows an answer while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WINDOW = 48
"""Tokens that are decoded again for each new one, at most."""
CONTEXT = 8
"""Tokens at the beginning of a new window, because decoding may depend on what stands before."""
HALF = "\ufffd"


class Decoder:
    """The text of a growing list of ids. All pieces together are the text of all ids."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token: int) -> str:
        """The text that is certain now; a character is shown when it is whole."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith(HALF):
            return ""
        piece = text[len(self._shown) :]
        self._shown = text
        if len(self._ids) >= WINDOW:
            kept = self._ids[-CONTEXT:]
            before = self._decode(kept)
            if not before.startswith(HALF):  # else the window would begin within a character
                self._ids, self._shown = kept, before
        return piece

    def end(self) -> str:
        """What is left: half a character that nothing completed."""
        return self._decode(self._ids)[len(self._shown) :]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
