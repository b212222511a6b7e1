"""A fast tokenizer of transformers as llama.cpp's vocabulary.

llama.cpp cuts texts by one of its own pre-tokenizers, which the file names. The name is taken from how the tokenizer
cuts, never from what it is called: one that cuts in a way not known here is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tunery.data.render import added_bos
from tunery.export.gguf_layout import refused

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEXES = {_WORDS % "": "qwen2", _WORDS % "{1,3}": "llama-bpe"}
"""Patterns of a ``Split`` → llama.cpp's name."""
UNMERGED = {"llama-bpe": "dbrx"}
"""The same pattern for vocabularies whose every token is reached by merges."""
SPACE = "▁"
BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What llama.cpp needs of a tokenizer. ``scores`` are sentencepiece's, ``merges`` GPT-2's."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_before: bool = False


def vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Args:
        rows: of the embeddings; those without a token are named and marked as unused.

    Raises ConfigError for a tokenizer that llama.cpp does not have.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise refused("the tokenizer is not a fast one (tokenizer.json)")
    described = json.loads(backend.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise refused(f"the tokenizer is of type {model['type']}; BPE is written")
    tokens, types = _tokens(tokenizer, described, rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        scores = _scores(tokens, types, merges)
        return Vocabulary("default", tokens, types, scores=scores, space_before=_space_before(described))
    return Vocabulary(pre_tokenizer(described), tokens, types, merges=merges)


def add(writer: Any, found: Vocabulary, tokenizer: Any, turn_ends: Sequence[int]) -> None:
    """Vocabulary and special tokens into a GGUF file's metadata. ``turn_ends``: ids that end an answer."""
    writer.add_tokenizer_model("llama" if found.scores else "gpt2")
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    if found.scores:
        writer.add_token_scores(found.scores)
    writer.add_token_types(found.types)
    if found.merges:
        writer.add_token_merges(found.merges)
    writer.add_add_space_prefix(found.space_before)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(int(number))
    writer.add_add_bos_token(added_bos(tokenizer) is not None)
    writer.add_add_eos_token(False)
    turn_end = next((number for number in turn_ends if number != tokenizer.eos_token_id), None)
    if turn_end is not None:  # llama.cpp stops at it as well
        writer.add_eot_token_id(int(turn_end))


def _tokens(tokenizer: Any, described: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """→ texts and llama.cpp's types of all ids. Raises ConfigError if the model has fewer embeddings than tokens."""
    import gguf

    kinds = gguf.TokenType
    known: dict[str, int] = tokenizer.get_vocab()
    if max(known.values()) >= rows:
        raise refused(f"the tokenizer has {max(known.values()) + 1} tokens, the model {rows} embeddings")
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [int(kinds.UNUSED)] * rows
    for token, number in known.items():
        tokens[number], types[number] = token, int(kinds.NORMAL)
    for added in described["added_tokens"]:
        types[added["id"]] = int(kinds.CONTROL if added["special"] else kinds.USER_DEFINED)
    return tokens, types


def pre_tokenizer(described: dict[str, Any]) -> str:
    """Llama.cpp's name of how this tokenizer (its JSON) cuts a text before merging. Raises ConfigError."""
    normalizer = described.get("normalizer")
    if normalizer and normalizer["type"] != "NFC":  # llama.cpp leaves texts as they are; nearly all are NFC
        raise refused(f"the tokenizer changes texts ({normalizer['type']}) before it cuts them")
    whole = described.get("pre_tokenizer") or {}
    parts = whole.get("pretokenizers", [whole])
    kinds = [part.get("type") for part in parts]
    last = parts[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise refused("the tokenizer does not work on bytes")
    unmerged = not described["model"].get("ignore_merges")
    found = None
    if kinds == ["ByteLevel"] and last["use_regex"]:
        found = "gpt-2" if unmerged else None
    elif kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and last["use_regex"]:
        found = "smollm" if unmerged else None
    elif kinds == ["Split", "ByteLevel"] and not last["use_regex"] and parts[0]["behavior"] == "Isolated":
        found = REGEXES.get(parts[0]["pattern"].get("Regex", ""))
        if found in UNMERGED:
            found = UNMERGED[found] if unmerged else found
        elif not unmerged:
            found = None
    if found is None:
        raise refused(
            f"the tokenizer cuts texts in a way not known here: {json.dumps(parts, ensure_ascii=False)[:200]}"
        )
    return found


# ---------------------------------------------------------------------------------------- sentencepiece


def _scores(tokens: Sequence[str], types: list[int], merges: Sequence[str]) -> list[float]:
    """llama.cpp merges Llama 2's kind of tokens by a score of each piece: the earlier it is merged, the higher. Tokens
    that stand for a byte are marked as such in ``types``.
    """
    import gguf

    place: dict[str, int] = {}
    for merge in merges:
        place.setdefault(merge.replace(" ", ""), len(place))
    scores = [0.0] * len(tokens)
    for number, token in enumerate(tokens):
        if types[number] == gguf.TokenType.NORMAL:
            scores[number] = -float(place.get(token, len(place) + 1))
            if BYTE.fullmatch(token):
                types[number] = int(gguf.TokenType.BYTE)
    return scores


def _space_before(described: dict[str, Any]) -> bool:
    """Whether a space is put before every part of a text. Raises ConfigError if that is done in another way."""
    normalizer: dict[str, Any] = described.get("normalizer") or {}
    before: dict[str, Any] = described.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not before and steps == [{"type": "Prepend", "prepend": SPACE}, replaces]:
        return True
    if not before and steps == [replaces]:
        return False
    if not steps and before.get("type") == "Metaspace" and not before.get("split"):
        scheme = before.get("prepend_scheme")
        if scheme in ("always", "never"):
            return bool(scheme == "always")
    raise refused("the tokenizer treats spaces in a way that llama.cpp does not have")
