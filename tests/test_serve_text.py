"""Text of an answer in pieces: whole characters, stops across borders, the same text as at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tunery.serve.text import Decoder, Piece, Stops, Writer, token_bytes
from tunery.serve.worker import Token

TEXTS = [
    "Hello, my name is Anna.",
    "  您可以在三十天内退货。 👍🏽 ok  ",
    "é" * 200 + "\n\n\tend \n",
    "naïve café — “quotes” … 🧑‍🚀🧑‍🚀🧑‍🚀",
    "",
    " \n ",
]


@pytest.fixture(params=["tiny_llama", "tiny_t5", "tiny_gemma"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def token(number: int) -> Token:
    return Token(number, -1.0, ())


def write(writer: Writer, ids: list[int]) -> tuple[list[Piece], str]:
    """→ pieces, and their text."""
    pieces = []
    for number in ids:
        pieces.append(writer.add(token(number)))
        if pieces[-1].stopped:
            break
    else:
        pieces.append(writer.end())
    return pieces, "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text(tokenizer: Any, text: str) -> None:
    ids = ids_of(tokenizer, text)
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    pieces, found = write(Writer(tokenizer, trim=False), ids)
    assert found == whole
    assert not any("\ufffd" in piece.text for piece in pieces), "half a character was shown"
    assert write(Writer(tokenizer), ids)[1] == whole.strip()


def test_any_ids_make_the_text_that_they_make_at_once(tokenizer: Any) -> None:
    """Also those that are no valid UTF-8, and many more than are decoded in one go."""
    pick = random.Random(3)
    for _ in range(20):
        ids = [pick.randrange(len(tokenizer)) for _ in range(pick.randrange(300))]
        assert write(Writer(tokenizer, trim=False), ids)[1] == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_character_is_shown_when_it_is_whole(tiny_llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = ids_of(tokenizer, "🧑")
    assert len(ids) > 1
    decoder = Decoder(tokenizer)
    assert [decoder.add(number) for number in ids] == [*[""] * (len(ids) - 1), "🧑"]
    assert decoder.end() == ""


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["cd"], "ab"),
        (["xyz", "ef"], "abcd"),
        (["abcdefgh"], ""),
        (["efX", "fg"], "abcde"),
        (["abcd", "bc"], "a"),  # what is complete first
        (["gh", "fgh"], "abcde"),  # complete at the same place: the longer one
        (["h!"], "abcdefgh"),
        ([], "abcdefgh"),
    ],
)
def test_stops_wherever_the_pieces_end(stops: list[str], expected: str) -> None:
    text = "abcdefgh"
    for cuts in range(1 << (len(text) - 1)):
        pieces, piece = [], ""
        for place, character in enumerate(text):
            piece += character
            if place == len(text) - 1 or cuts >> place & 1:
                pieces.append(piece)
                piece = ""
        scanner, found = Stops(stops), ""
        for piece in pieces:
            shown, stopped = scanner.add(piece)
            found += shown
            assert expected.startswith(found), "something behind the stop was shown"
            if stopped:
                break
        else:
            found += scanner.end()
        assert found == expected, pieces


@pytest.mark.parametrize("trim", [True, False])
def test_tokens_behind_a_stop_are_not_shown(tiny_llama: Path, trim: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = ids_of(tokenizer, "Hello。my name is Anna")
    pieces, found = write(Writer(tokenizer, ["。my"], trim, keep=True), ids)
    assert found == "Hello" and pieces[-1].stopped
    shown = [one.id for piece in pieces for one in piece.tokens]
    assert tokenizer.decode(shown) == "Hello"
    places = [place for piece in pieces for place in piece.places]
    assert places[0] == 0 and places == sorted(places)


def test_every_token_is_kept_once(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, "  Please 退货 👍 now ")
    pieces, _ = write(Writer(tokenizer, ["never"], keep=True), ids)
    assert [one.id for piece in pieces for one in piece.tokens] == ids


def test_bytes_of_tokens(tokenizer: Any) -> None:
    for text in ("Hello, my name 退货 👍", "naïve"):
        ids = ids_of(tokenizer, text)
        assert b"".join(token_bytes(tokenizer, number) for number in ids).decode().strip() == text
