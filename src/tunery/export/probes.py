"""The rows by which an export is judged: of the run's test or validation files, else of its training files, and the
example that the run stored with its token ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tunery.data import soft
from tunery.errors import DataError, ModelError
from tunery.export.consumers.transformers import tokens
from tunery.export.kind import Subject
from tunery.protocols import IGNORE, SOFT, Encoded, Example
from tunery.run import train as training
from tunery.run.cleaning import Cleaned
from tunery.run.dataset import load_examples
from tunery.run.encode import probe_example
from tunery.run.records import say

MOST_BYTES = 1 << 30
"""Of logits that are compared; long rows are looked at in so many places, evenly spaced."""


@dataclass(slots=True)
class Probes:
    """``rows[i]`` belongs to ``encoded[i]``, whose example is ``examples[encoded[i].row]``."""

    examples: list[Example] = field(default_factory=list)
    asks: list[dict[str, Any]] = field(default_factory=list)
    expected: list[list[int]] = field(default_factory=list)
    """Token ids that training read for each of ``asks``."""
    encoded: list[Encoded] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """As the consumer reads them, without soft tokens."""
    own: list[dict[str, Any]] = field(default_factory=list)
    """As the run's model reads them."""
    targets: list[list[int]] = field(default_factory=list)
    """Of each row, the right token at each of its positions; empty where the task scores rows."""
    prompts: list[list[int]] = field(default_factory=list)
    asked: list[Example] = field(default_factory=list)
    """The example of each prompt."""
    answers: Literal["classes", "labels", "numbers"] = "classes"
    """What the logits are: of one class out of many, of each label yes or no, or a number."""

    def job(self, subject: Subject) -> dict[str, Any]:
        return {
            "asks": self.asks,
            "rows": self.rows,
            "prompts": self.prompts,
            "max_new_tokens": subject.config.eval.max_new_tokens,
            "stop_ids": list(subject.task.stop_ids(subject.tokenizer)) if self.prompts else [],
        }


def collect(subject: Subject, count: int) -> Probes:
    """Raises DataError if no row can be used."""
    task, tokenizer = subject.task, subject.tokenizer
    length = subject.config.data.max_length or task.default_max_length
    found = Probes()
    if getattr(task, "multi", False):
        found.answers = "labels"
    elif task.name == "regress":
        found.answers = "numbers"
    for example in _examples(subject, count):
        try:
            encoded = soft.encode(task, example, tokenizer, length)
        except DataError:  # a row that does not fit was not trained on either
            continue
        for row in encoded:
            row.row = len(found.examples)
        found.examples.append(example)
        _ask(found, subject, example, encoded[0], length)
        found.encoded += encoded
    if not found.encoded:
        raise DataError("no row to compare the export with the run by", "restore the run's data files", "data.test")
    most = max(MOST_BYTES // (4 * len(found.encoded) * _classes(subject)), 1)
    for row in found.encoded:
        for kept, whole in ((found.own, row), (found.rows, row.without_soft())):
            inputs, positions, targets = _row(subject, whole)
            if positions is not None and len(positions) > most:
                places = [i * len(positions) // most for i in range(most)]
                positions, targets = [positions[i] for i in places], [targets[i] for i in places]
            kept.append({"inputs": inputs, "positions": positions})
        found.targets.append(targets)
    return found


def _examples(subject: Subject, count: int) -> list[Example]:
    """The stored probe, and rows evenly spaced over the files."""
    data = subject.config.data
    stored = probe_example(subject.manifest["probe"])
    try:
        rows, *_ = load_examples(data.test or data.validation or data.train or "", data, True, Cleaned())
    except (DataError, ModelError) as error:
        say(f"the export is judged by the stored probe alone: {error}")
        return [stored]
    usable = [rows[place * len(rows) // count] for place in range(count)] if len(rows) > count else list(rows)
    return [stored, *(e for e in usable if subject.task.check(e) is None and e != stored)]


def _ask(found: Probes, subject: Subject, example: Example, row: Encoded, length: int) -> None:
    """What a consumer's tokenizer is asked, what it must say, and what it is to answer."""
    task, tokenizer = subject.task, subject.tokenizer
    settings = training.settings(subject.config, subject.base, None)
    if task.name == "instruct":
        # as a user of the export has them: the run's system prompt must come from the export's own template
        asked = example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages
        found.asks.append({"chat": [{"role": m.role, "content": m.content} for m in asked]})
        found.expected.append(_plain(soft.prompt(task, example, tokenizer, settings.max_prompt)))
    else:
        ask: dict[str, Any] = {"words": list(example.words)} if example.words else _texts(example, length)
        found.asks.append(ask)
        # where the task puts words of its own around the text, the tokenizer alone is compared
        found.expected.append(tokens(tokenizer, ask))
    if task.output == "text" and "text" in task.kinds and task.reference(example):
        found.prompts.append(_plain(soft.prompt(task, example, tokenizer, settings.max_prompt)))
        found.asked.append(example)


def _plain(ids: list[int]) -> list[int]:
    """Without soft tokens, which an export puts in by itself."""
    return [i for i in ids if i < SOFT]


def _texts(example: Example, length: int) -> dict[str, Any]:
    text = example.text or example.input_text
    return {"texts": [text] if example.text_pair is None else [text, example.text_pair], "longest": length}


def _classes(subject: Subject) -> int:
    return int(getattr(subject.base.config, "vocab_size", 1) or 1)


def _row(subject: Subject, row: Encoded) -> tuple[dict[str, list[int]], list[int] | None, list[int]]:
    """→ model inputs, positions whose logits count, and the token that is right at each."""
    inputs = {"input_ids": list(row.ids)}
    if row.type_ids is not None:
        inputs["token_type_ids"] = list(row.type_ids)
    if row.labels is not None:
        places = [i - 1 for i, label in enumerate(row.labels) if i and label != IGNORE]
        return inputs, places, [row.ids[i + 1] for i in places]
    if row.answer is not None:
        start = subject.base.config.decoder_start_token_id
        inputs["decoder_input_ids"] = [start, *row.answer[:-1]]
        return inputs, list(range(len(row.answer))), list(row.answer)
    if subject.task.name == "cloze" and row.span is not None:
        return _cloze(subject, row, inputs)
    return inputs, None, []


def _cloze(
    subject: Subject, row: Encoded, inputs: dict[str, list[int]]
) -> tuple[dict[str, list[int]], list[int] | None, list[int]]:
    """The place of the label: masks, a sentinel, or what comes after the text before it."""
    assert row.span is not None
    first, last = row.span
    words = row.ids[first : last + 1]
    if subject.base.family == "decoder":
        if first == 0:
            return inputs, list(range(len(row.ids) - 1)), row.ids[1:]
        return inputs, list(range(first - 1, last)), words
    ids, tokenizer = inputs["input_ids"], subject.tokenizer
    if subject.base.family == "encoder":
        ids[first : last + 1] = [tokenizer.mask_token_id] * len(words)
        return inputs, list(range(first, last + 1)), words
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    ids[first : last + 1] = [sentinel]
    inputs["decoder_input_ids"] = [subject.base.config.decoder_start_token_id, sentinel]
    inputs.pop("token_type_ids", None)
    return inputs, [1], words[:1]
