"""Tokenising piece by piece gives what tokenising whole texts gives, and places in tokens that offsets would give."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny
from tunery.data.pieces import tokenise

PARTS = ["hello", " world", "\n", "\n\n", "  ", "é", "汉字", "😀", "<|im_", "end|>", "12345", "\t", "user", ": "]


def unigram() -> Any:
    """As Llama's first tokenizers: a space is put in front of the text, and of what follows a special token."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁hello", -3.0), ("hello", -3.5), ("world", -3.0)]
    pieces += [(chr(code), -6.0) for code in range(33, 127)]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def added(**settings: bool) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny.byte_bpe(["<s>", "</s>"]), eos_token="</s>")
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, **settings)])
    return tokenizer


def texts(tokenizer: Any, count: int) -> list[tuple[str, list[tuple[int, int]]]]:
    """Of pieces in any order, special tokens among them, with spans that begin and end anywhere."""
    pick = random.Random(0)
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    found = []
    for _ in range(count):
        text = "".join(pick.choices(PARTS + special * 3, k=pick.randint(1, 12)))
        ends = sorted(pick.choices(range(len(text) + 1), k=2 * pick.randint(0, 2)))
        found.append((text, list(zip(ends[::2], ends[1::2], strict=True))))
    return found


def check(tokenizer: Any, least: int) -> None:
    def ids(text: str) -> list[int]:
        return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    cases = texts(tokenizer, 600)
    exact = 0
    for (text, spans), found in zip(cases, tokenise(cases, tokenizer), strict=True):
        if found is None:
            continue
        exact += 1
        assert found[0] == ids(text), repr(text)
        for places, tokens in zip(spans, found[1], strict=True):
            for place, number in zip(places, tokens, strict=True):
                assert found[0][:number] == ids(text[:place]), (text, place)
    assert exact >= least


def test_byte_level(tiny_llama: Path, tiny_gpt2: Path) -> None:
    check(AutoTokenizer.from_pretrained(tiny_llama), 200)
    check(AutoTokenizer.from_pretrained(tiny_gpt2), 200)


def test_with_spaces_put_in_front() -> None:
    check(unigram(), 100)


def test_a_token_that_takes_spaces_along_is_left_to_offsets() -> None:
    for settings in ({"lstrip": True}, {"rstrip": True}, {"single_word": True}):
        assert tokenise([("a <|im_end|> b", [])], added(**settings)) == [None]
    tokenizer = added(normalized=False)
    found = tokenise([("a <|im_end|> b", [(2, 12)])], tokenizer)[0]
    assert found is not None
    (first, last) = found[1][0]
    assert tokenizer.convert_ids_to_tokens(found[0][first:last]) == ["<|im_end|>"]


def test_a_token_over_the_end_of_a_span_is_left_to_offsets(tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2)
    text = "hello hello"
    assert len(tokenizer(text)["input_ids"]) < len(text)
    found = tokenise([(text, [(2, 3)]), (text, [(0, len(text))])], tokenizer)
    assert found[0] is None or tokenizer.decode(found[0][0][: found[0][1][0][0]]) == text[:2]
    assert found[1] is not None


@pytest.mark.real
def test_smollm2() -> None:
    from tunery.models.packs import pull

    check(AutoTokenizer.from_pretrained(pull("smollm2")), 200)
