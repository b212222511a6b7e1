"""Cloze templates: a text with the places of a row's texts and of its label, ``"Review: {text} | Sentiment: {label}"``.

A template is parsed by the few lines below and never evaluated; what is put into it is data and never parsed. A label
word is tokenised where it stands, together with the space before it: after ``Sentiment:`` stands the token `` great``,
not a lone space and ``great``. Soft tokens, ``[soft:n]``, may stand anywhere. ``{review}`` and ``{sentiment}``, names
that columns are known by, mean the same as ``{text}`` and ``{label}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunery.data import soft
from tunery.data.columns import SYNONYMS
from tunery.errors import ConfigError, DataError, near
from tunery.protocols import Encoded, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "label"
FIELDS = ("text", "text_pair")
_MARK = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_WHERE = "task.template"


@dataclass(frozen=True, slots=True)
class Part:
    """A field (``text``, ``text_pair``, ``label``), or what stands between fields if ``field`` is empty."""

    field: str
    literal: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; ``{label}`` stands in it once."""

    parts: tuple[Part, ...]
    soft: int = 0
    """Soft tokens in it."""

    @property
    def fields(self) -> set[str]:
        return {part.field for part in self.parts} - {"", LABEL}

    @property
    def goes_on(self) -> bool:
        """Whether anything but spaces follows the label."""
        after = self.parts[self._at + 1 :]
        return any(part.field or part.literal.strip() for part in after)

    @property
    def _at(self) -> int:
        return next(i for i, part in enumerate(self.parts) if part.field == LABEL)

    def fill(self, texts: Mapping[str, str], word: str) -> Filled:
        """Put texts and a label word in. A space before the label counts as the word's."""
        whole, spans, place = "", {}, (0, 0)
        for part in self.parts:
            value = word if part.field == LABEL else texts[part.field] if part.field else part.literal
            begin, whole = len(whole), whole + value
            if part.field == LABEL:
                place = (begin - whole[:begin].endswith(" "), len(whole))
            elif part.field:
                spans[part.field] = (begin, len(whole))
        return Filled(whole, spans, place)


@dataclass(frozen=True, slots=True)
class Filled:
    """A text, with [start, end) of its fields and of its label."""

    text: str
    fields: dict[str, tuple[int, int]]
    label: tuple[int, int]


def parse(template: str) -> Template:
    """``{{`` and ``}}`` stand for braces. Raises ConfigError: unknown field, no or several ``{label}``, no text."""
    source = soft.compiled(template)
    parts: list[Part] = []
    literal, begun = "", 0
    for mark in _MARK.finditer(source):
        literal += source[begun : mark.start()]
        begun = mark.end()
        if mark[0] in ("{{", "}}"):
            literal += mark[0][0]
        elif mark[1] is None:
            raise ConfigError(f"a {mark[0]!r} without its fellow", "write it twice to mean a brace", _WHERE)
        else:
            name = _field(mark[1])
            parts += [Part("", literal), Part(name)] if literal else [Part(name)]
            literal = ""
    literal += source[begun:]
    found = (*parts, Part("", literal)) if literal else tuple(parts)
    _check(found)
    return Template(found, soft.count(template))


def _field(name: str) -> str:
    """The field that is meant, by its own name or one that columns have for it (``sentiment``: the label)."""
    known = (*FIELDS, LABEL)
    found = name if name in known else next((field for field in known if name in SYNONYMS[field]), None)
    if found is None:
        raise ConfigError(f"unknown field {{{name}}}", near(name, [*known]), _WHERE)
    return found


def _check(parts: Sequence[Part]) -> None:
    names = [part.field for part in parts]
    if names.count(LABEL) != 1:
        how = "no {label}" if LABEL not in names else f"{names.count(LABEL)} times {{label}}"
        raise ConfigError(f"{how} in the template", "name it once: 'Review: {text} | Sentiment: {label}'", _WHERE)
    if not any(names.count(name) for name in FIELDS):
        raise ConfigError("no {text} in the template", "the model must see the text it is to judge", _WHERE)
    at = names.index(LABEL)
    beside = next((name for name in names[max(at - 1, 0) : at + 2] if name not in ("", LABEL)), None)
    if beside is not None:
        hint = "put a space or a punctuation mark between them"
        raise ConfigError(f"{{{beside}}} stands directly beside {{label}}: they would share tokens", hint, _WHERE)


# ------------------------------------------------------------------------------------------------- tokens


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    spans: list[tuple[int, int]]
    """[start, end) of each token in the text; empty for tokens that the tokenizer adds."""
    label: tuple[int, int]
    """The label's tokens, [first, end)."""


def _tokens(filled: Filled, template: Template, tokenizer: PreTrainedTokenizerBase) -> _Tokens:
    ids, spans = soft.tokenise(filled.text, tokenizer, template.soft, special=True)
    inside = [n for n, (start, end) in enumerate(spans) if start < filled.label[1] and end > filled.label[0]]
    label = (inside[0], inside[-1] + 1) if inside else (0, 0)
    return _Tokens(ids, spans, label)


def word_ids(template: Template, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Token ids of each word at the label's place.

    Raises ConfigError: a word the tokenizer does not know, that shares a token with what stands beside it, or that
    has the same tokens as another.
    """
    found: list[tuple[int, ...]] = []
    around: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
    for word in words:
        filled = template.fill(dict.fromkeys(FIELDS, "a"), word)
        tokens = _tokens(filled, template, tokenizer)
        first, end = tokens.label
        ids = tuple(tokens.ids[first:end])
        if not ids or tokenizer.unk_token_id in ids:
            raise ConfigError(
                f"the tokenizer does not know the word {word!r}", "choose another word", "task.verbaliser"
            )
        around.add((tuple(tokens.ids[:first]), tuple(tokens.ids[end:])))
        if tokens.spans[first][0] < filled.label[0] or tokens.spans[end - 1][1] > filled.label[1] or len(around) > 1:
            hint = "put a space or a punctuation mark before and after {label}"
            raise ConfigError(f"the word {word!r} shares a token with what stands beside {{label}}", hint, _WHERE)
        if ids in found:
            same = words[found.index(ids)]
            hint = "choose another word"
            raise ConfigError(f"{word!r} and {same!r} are the same tokens to this model", hint, "task.verbaliser")
        found.append(ids)
    return found


def encode(
    template: Template,
    example: Example,
    word: str,
    longest: int,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> tuple[Encoded, int]:
    """A row with ``word`` in the label's place, which ``span`` tells, and the position where the last text ends.

    Only the texts are cut, the longer one first.

    Args:
        longest: tokens that are kept free for the label.

    Raises DataError: no text for a field. ConfigError: the template alone is too long.
    """
    texts = {name: getattr(example, name) for name in template.fields}
    empty = next((name for name, value in texts.items() if value is None), None)
    if empty is not None:
        raise DataError(f"the template names {{{empty}}}, and this row has none", "change task.template", example.where)
    filled = template.fill(texts, word)
    tokens = _tokens(filled, template, tokenizer)
    first, end = tokens.label
    excess = len(tokens.ids) - (end - first) + max(longest, end - first) - max_length
    own = [
        # a token of nothing but a space may have an empty span, at the space's end
        [n for n, (a, b) in enumerate(tokens.spans) if start <= a and start < b <= stop and not first <= n < end]
        for start, stop in filled.fields.values()
    ]
    cut = _cut(own, excess, max_length)
    kept = [n for n in range(len(tokens.ids)) if n not in cut]
    begin = kept.index(first)
    span = (begin, begin + end - first - 1)
    texts_end = 1 + max((kept.index(places[-1]) for places in own if places), default=begin - 1)
    return Encoded(ids=[tokens.ids[n] for n in kept], span=span, truncated=bool(cut)), texts_end


def _cut(own: list[list[int]], excess: int, max_length: int) -> set[int]:
    """Take the last tokens off the longer text (``own``: the tokens of each); one of each text stays. → which."""
    if excess <= 0:
        return set()
    if sum(len(places) - 1 for places in own if places) < excess:
        least = max_length + excess - sum(len(places) - 1 for places in own if places)
        hint = "shorten it, or raise data.max_length"
        raise ConfigError(f"the template takes {least} tokens, and data.max_length is {max_length}", hint, _WHERE)
    cut = set()
    for _ in range(excess):
        cut.add(max(own, key=len).pop())
    return cut
