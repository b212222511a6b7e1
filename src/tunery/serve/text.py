"""Token ids → text, piece by piece: never half a character, never what stands behind a stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from tunery.generate.text import Decoder
from tunery.serve.worker import Token


class Stops:
    """Cuts a text at the stop that is complete first, wherever the pieces end."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """→ text that can be shown, and whether a stop was met."""
        text = self._held + piece
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)[1]], True
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def end(self) -> str:
        """What was held back because a stop might have begun there."""
        return self._held


def _begun(text: str, stop: str) -> int:
    """How many characters of the stop are at the end of the text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class Trim:
    """Takes white space off both ends of a text that comes in pieces, as ``str.strip`` does."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._begun = False
        self._held = ""

    def add(self, piece: str) -> str:
        if not self._wanted:
            return piece
        text = self._held + piece
        if not self._begun:
            text = text.lstrip()
        stable = text.rstrip()
        self._begun = self._begun or bool(stable)
        self._held = text[len(stable) :]
        return stable


@dataclass(slots=True)
class Piece:
    """A piece of an answer, with the tokens that are whole in it."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where in the whole text each token begins, in characters."""
    stopped: bool = False

    def __bool__(self) -> bool:
        return bool(self.text or self.tokens)


class Writer:
    """Tokens → pieces of the answer.

    Args:
        stops: texts that end the answer.
        trim: leave out white space at both ends, as the text of a chat's answer is given everywhere in tunery.
        keep: keep tokens for their log probabilities.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), trim: bool = True, keep: bool = False) -> None:
        self._decoder, self._stops, self._trim = Decoder(tokenizer), Stops(stops), Trim(trim)
        self._keep = keep
        self._read = self._shown = 0  # characters
        self._open: list[tuple[Token, int]] = []  # and where it begins
        self._whole: list[tuple[Token, int, int]] = []  # and where it begins and ends

    def add(self, token: Token) -> Piece:
        """Nothing may be added after a piece that is ``stopped``."""
        text = self._decoder.add(token.id)
        if self._keep:
            self._open.append((token, self._read))
        return self._pass(text)

    def end(self) -> Piece:
        """The last piece."""
        piece = self._pass(self._decoder.end())
        if piece.stopped:
            return piece
        held = self._stops.end()
        piece.text += self._trim.add(held)
        self._whole += [(token, start, start) for token, start in self._open]
        for token, start, _ in self._whole:
            piece.tokens.append(token)
            piece.places.append(start)
        return piece

    def _pass(self, text: str) -> Piece:
        if text:
            self._read += len(text)
            self._whole += [(token, start, self._read) for token, start in self._open]
            self._open = []
        shown, stopped = self._stops.add(text)
        self._shown += len(shown)
        piece = Piece(self._trim.add(shown), stopped=stopped)
        while self._whole and self._whole[0][2] <= self._shown:
            token, start, _ = self._whole.pop(0)
            piece.tokens.append(token)
            piece.places.append(start)
        return piece


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """Characters that stand for bytes in GPT-2's kind of vocabulary: printable ones for themselves, then in order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_KNOWN: WeakKeyDictionary[Any, dict[int, bytes]] = WeakKeyDictionary()
"""What is known of the tokens of each tokenizer, as long as it is served."""


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for, which may be part of a character."""
    known = _KNOWN.setdefault(tokenizer, {})
    if token not in known:
        known[token] = _bytes_of(tokenizer, token)
    return known[token]


def _bytes_of(tokenizer: Any, token: int) -> bytes:
    name = str(tokenizer.convert_ids_to_tokens(token) or "")
    table = _byte_of()
    by_bytes = "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    if by_bytes and token not in tokenizer.all_special_ids and all(c in table for c in name):
        return bytes(table[c] for c in name)
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):  # sentencepiece's bytes
        return bytes([int(name[3:5], 16)])
    if name.startswith("\u2581"):
        return name.replace("\u2581", " ").encode()
    return str(tokenizer.decode([token])).encode("utf-8", "replace")
