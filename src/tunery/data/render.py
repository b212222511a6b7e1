"""Conversation → token ids and mask, in one function, so that training and serving cannot differ.

A token is supervised if it stands inside an answer. What is asked is tokenised as if nothing followed, so the
prompt that is used for generation is a prefix of what was learnt, in text and in tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tunery.data import pieces, sandbox, soft
from tunery.errors import ConfigError, DataError
from tunery.protocols import IGNORE, SOFT, Encoded, Example, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["answers", "last", "all"]


def render_text(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, template: str, ask: bool = False
) -> str:
    """The text a model sees; ``ask`` adds what stands before an answer. Raises ConfigError for a bad template."""
    return render_texts([messages], tokenizer, template, ask)[0]


def render_texts(
    conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, template: str, ask: bool = False
) -> list[str]:
    """``render_text`` of many conversations. Raises ConfigError if one is refused."""
    return sandbox.render(soft.compiled(template), conversations, tokenizer, ask)


def answer_spans(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[str, list[tuple[int, int]]]:
    """→ the rendered text, and [start, end) of each answer in it, the end-of-turn token included.

    Raises DataError if the template does not render a conversation turn by turn (an answer could then not
    be found in the text).
    """
    return all_answer_spans([messages], tokenizer, template)[0]


def all_answer_spans(
    conversations: Sequence[Sequence[Message]], tokenizer: PreTrainedTokenizerBase, template: str
) -> list[tuple[str, list[tuple[int, int]]]]:
    """``answer_spans`` of many conversations. Raises as it does, for any of them."""
    texts = render_texts(conversations, tokenizer, template)
    turns = [
        (row, turn)
        for row, messages in enumerate(conversations)
        for turn, message in enumerate(messages)
        if message.role == "assistant"
    ]
    asking = render_texts([conversations[row][:turn] for row, turn in turns], tokenizer, template, ask=True)
    inner = [(row, turn) for row, turn in turns if turn + 1 < len(conversations[row])]
    through = render_texts([conversations[row][: turn + 1] for row, turn in inner], tokenizer, template)
    answered = dict(zip(inner, through, strict=True))
    spans: list[list[tuple[int, int]]] = [[] for _ in conversations]
    for (row, turn), before in zip(turns, asking, strict=True):
        text = texts[row]
        after = answered.get((row, turn), text)
        if not (text.startswith(before) and text.startswith(after) and after.startswith(before)):
            hint = "use task.loss_on=last with one answer a row, or another task.template"
            if soft.count(template):  # each [soft:n] of the source is other soft tokens
                hint = "to have the same soft tokens in a turn and in the generation prompt, name them once: "
                hint += "{% set soft = '[soft:2]' %}, then {{ soft }}"
            raise DataError("the chat template changes earlier turns, so the answers cannot be told apart", hint)
        # Trailing line breaks belong to the template, not to the answer: no model has to produce them.
        spans[row].append((len(before), len(after.rstrip("\n"))))
    return list(zip(texts, spans, strict=True))


def encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """→ ids and the position in the text at which each begins; exactly one BOS where the model has one."""
    return encode_turns(text, (), tokenizer)


def encode_turns(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase, count: int = 0
) -> tuple[list[int], list[int]]:
    """As ``encode_text``, but no token reaches from a question into its answer, whose [start, end) are ``spans``.

    ("输出：" + "，" may share a token: it could neither be learnt nor asked for.)
    ``count``: number of soft tokens in the template.
    """

    def tokens(begin: int, end: int | None) -> tuple[list[int], list[int]]:
        ids, places = soft.tokenise(text[begin:end], tokenizer, count)
        return ids, [begin + start for start, _ in places]

    ids: list[int] = []
    starts: list[int] = []
    begun = 0
    for start, end in spans:
        part, places = tokens(begun, start)
        if tokens(begun, end)[0][: len(part)] != part:
            ids, starts = ids + part, starts + places
            begun = start
    part, places = tokens(begun, None)
    ids, starts = ids + part, starts + places
    first = next((i for i in ids if i < SOFT), None)
    has_bos = first is not None and first == tokenizer.bos_token_id
    bos = None if has_bos else added_bos(tokenizer)
    return ([bos, *ids], [-1, *starts]) if bos is not None else (ids, starts)


@lru_cache(maxsize=4)
def added_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id this tokenizer puts in front of plain text, if it is the BOS."""
    if tokenizer.bos_token_id is None:
        return None
    first = tokenizer("a")["input_ids"][:1]
    return int(tokenizer.bos_token_id) if first == [tokenizer.bos_token_id] else None


def render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    loss_on: LossOn = "answers",
) -> tuple[list[int], list[int]]:
    """→ ids, labels (``IGNORE`` where there is no loss). The last answer ends with a supervised end token."""
    return render_all([messages], tokenizer, template, loss_on)[0]


def render_all(
    conversations: Sequence[Sequence[Message]],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    loss_on: LossOn = "answers",
) -> list[tuple[list[int], list[int]]]:
    """``render`` of many conversations; all texts go through the tokenizer together."""
    rendered = all_answer_spans(conversations, tokenizer, template)
    count = soft.count(template)
    encoded = _encode_all(rendered, tokenizer, count)
    rows = []
    for messages, (text, every), (ids, answers) in zip(conversations, rendered, encoded, strict=True):
        if count and any(soft.is_soft(character, count) for start, end in every for character in text[start:end]):
            raise ConfigError(
                "[soft:n] stands inside an answer, where no answer that the model writes can have it",
                "put it before the answer (and into the generation prompt)",
                "task.template",
            )
        labels = [IGNORE] * len(ids)
        for first, last in answers[-1:] if loss_on == "last" else answers:
            labels[first:last] = ids[first:last]
        if messages and messages[-1].role == "assistant":
            _close(ids, labels, tokenizer)
        if loss_on == "all":
            labels = [i if i < SOFT else IGNORE for i in ids]
        rows.append((ids, labels))
    return rows


def _encode_all(
    rendered: Sequence[tuple[str, Sequence[tuple[int, int]]]], tokenizer: PreTrainedTokenizerBase, count: int
) -> list[tuple[list[int], pieces.Spans]]:
    """→ ids, and the answers in tokens. Where no token reaches into an answer, which is nearly always, the tokens of
    the whole text are it.
    """
    found = [None] * len(rendered) if count else pieces.tokenise(rendered, tokenizer)
    rows = []
    for (text, every), encoded in zip(rendered, found, strict=True):
        if encoded is None:
            ids, starts = encode_turns(text, every, tokenizer, count)
            rows.append((ids, [(bisect_left(starts, start), bisect_left(starts, end)) for start, end in every]))
            continue
        ids, spans = encoded
        bos = None if ids[:1] == [tokenizer.bos_token_id] else added_bos(tokenizer)
        rows.append((ids, spans) if bos is None else ([bos, *ids], [(start + 1, end + 1) for start, end in spans]))
    return rows


def _close(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the answer's end is a token the model learns to stop with (pad may be the same id)."""
    last = next((i for i in range(len(labels) - 1, -1, -1) if labels[i] != IGNORE), None)
    if last is None or ids[last] in ends(tokenizer):
        return
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "neither the template nor the tokenizer has a token that ends an answer",
            "use a template that closes the assistant's turn with a special token",
            "task.template",
        )
    del ids[last + 1 :], labels[last + 1 :]
    ids.append(int(tokenizer.eos_token_id))
    labels.append(int(tokenizer.eos_token_id))


@lru_cache(maxsize=4)
def ends(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that may end a turn: all special tokens but a BOS that is not the EOS as well."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        special.discard(tokenizer.bos_token_id)
    return frozenset(special)


def prompt_ids(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    """Ids to generate an answer from; they are a prefix of what ``render`` gives with the answer."""
    asked = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    return _prompt(asked, render_text(asked, tokenizer, template, ask=True), tokenizer, template)[0]


def turn_end(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, template: str) -> int:
    """Position in ``prompt_ids`` after the last turn that is asked, before what asks for an answer."""
    asked = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    asking, turns = render_text(asked, tokenizer, template, ask=True), render_text(asked, tokenizer, template)
    ids, starts = _prompt(asked, asking, tokenizer, template)
    end = len(turns) if asking.startswith(turns) else len(asking)
    return next((place for place, start in enumerate(starts) if start >= end), len(ids))


def _prompt(
    asked: Sequence[Message], text: str, tokenizer: PreTrainedTokenizerBase, template: str
) -> tuple[list[int], list[int]]:
    try:
        spans = answer_spans(asked, tokenizer, template)[1]
    except (ConfigError, DataError):  # such a template is not trained on several turns; it may still be asked
        spans = []
    return encode_turns(text, spans, tokenizer, soft.count(template))


def encode_row(example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Ids of one text, or of a pair, with the model's own special tokens, cut at the end of the longer text."""
    texts = (example.text,) if example.text_pair is None else (example.text, example.text_pair)
    whole: Any = tokenizer(*texts)
    ids = whole["input_ids"]
    truncated = len(ids) > max_length
    if truncated:
        whole = tokenizer(*texts, truncation="longest_first", max_length=max_length)
    types = whole.get("token_type_ids") if example.text_pair is not None else None
    return Encoded(ids=list(whole["input_ids"]), type_ids=types, truncated=truncated)
