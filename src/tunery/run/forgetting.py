"""What a model that writes text has forgotten: its loss on general text and its answers to general questions, before
and after training.

"Before" is the bare base model; its numbers are kept in the cache, by all that they depend on. Both texts count with
their first ``MOST`` tokens, in windows of ``WINDOW``: a few seconds for a small model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunery import registry
from tunery.config import Config
from tunery.data import general, soft
from tunery.data.batch import collate, in_order
from tunery.data.encoded import lengths
from tunery.data.general import Question
from tunery.data.render import encode_text
from tunery.errors import ConfigError, ResourceError
from tunery.evaluate import readable, undisturbed
from tunery.models import cache
from tunery.models.heads import row_losses
from tunery.models.load import Base
from tunery.protocols import IGNORE, SOFT, Encoded, Example, Method, SoftPlacement, Task
from tunery.run import processes
from tunery.run.encode import Split, model_limit
from tunery.run.records import say
from tunery.rundir import RunDir, write_json

VERSION = 1
"""Of what is measured: part of the cache's keys."""
WINDOW, MOST = 256, 2048
"""Tokens that are read at once; tokens of each text that are measured."""
_BATCH_ROWS, _BATCH_TOKENS = 64, 1024


@dataclass(frozen=True, slots=True)
class General:
    """General text and questions as rows of a run's model, soft tokens in front where it has some."""

    text: str
    """``built-in`` or the user's file."""
    windows: dict[str, list[Encoded]]
    """By language for the built-in texts, else under ``text``."""
    questions: list[Question]
    options: list[list[Encoded]]
    """For each question, the question with each of its options; the option's tokens count."""

    @property
    def rows(self) -> list[Encoded]:
        return [row for part in (*self.windows.values(), *self.options) for row in part]

    @property
    def tokens(self) -> int:
        return sum(row.supervised for part in self.windows.values() for row in part)

    def digest(self) -> str:
        """Of all that a bare base reads, and of what it is asked to predict."""
        sha = hashlib.sha256()
        for row in self.rows:
            bare = row.without_soft()
            sha.update(json.dumps([bare.ids, bare.labels]).encode())
        return sha.hexdigest()


@dataclass(slots=True)
class Measured:
    """What one model makes of the general rows."""

    losses: dict[str, float] = field(default_factory=dict)
    """Mean loss of a token, by text."""
    loss: float = 0.0
    """Over the tokens of all texts."""
    right: list[bool] = field(default_factory=list)
    """Of each question, whether the right option is the likeliest; empty if the questions were left out."""


# --------------------------------------------------------------------------------------------- the rows


def general_rows(config: Config, task: Task, method: Method, base: Base, training: Split) -> General | None:
    """The rows to measure; None for a run that writes no text, or for ``eval.general_text=null``.

    Raises ConfigError: ``train.max_forgetting`` where nothing is measured or nothing can be scaled; DataError: the
    user's text cannot be read.
    """
    name = config.eval.general_text
    generative = task.output == "text" and base.family == "decoder"
    if config.train.max_forgetting is not None:
        _check_bound(task, method, generative, name)
    if not generative or name is None:
        return None
    lm = registry.get("task", "lm")(registry.config_class("task", "lm")())
    ids = [i for i in training.rows[0].ids if i >= SOFT]
    if ids:
        lm.soft = SoftPlacement(max(ids) - SOFT + 1, "before")
    length = min(WINDOW + (lm.soft.tokens if lm.soft else 0), model_limit(base))
    texts = general.texts(name)
    windows = {part: _windows(text, lm, base.tokenizer, length) for part, text in texts.items()}
    questions = general.questions()
    options = [_options(question, lm, base.tokenizer, length) for question in questions]
    return General(name, windows, questions, options)


def _check_bound(task: Task, method: Method, generative: bool, name: str | None) -> None:
    where = "train.max_forgetting"
    if not generative:
        problem = f"forgetting is measured on decoders that write text, which task {task.name} does not train here"
        raise ConfigError(problem, f"leave {where} out", where)
    if name is None:
        raise ConfigError("nothing is measured without general text", "leave eval.general_text=null out", where)
    if not method.scaled():
        problem = f"method {method.name} has no scale: half of a soft prompt is another prompt, not a weaker one"
        raise ConfigError(problem, f"leave {where} out, or use method=lora, adapter, ia3 or full", where)


def _windows(text: str, lm: Task, tokenizer: Any, length: int) -> list[Encoded]:
    """The first tokens of a text, cut into windows; every token but the first is predicted once."""
    found: list[Encoded] = []
    counted = 0
    for row in soft.encode(lm, Example("<general text>", 1, text=text[: 16 * MOST]), tokenizer, length):
        found.append(row)
        counted += row.supervised
        if counted >= MOST:
            break
    return found


def _options(question: Question, lm: Task, tokenizer: Any, length: int) -> list[Encoded]:
    """The question with each option. What all of them begin with is not predicted: a tokenizer may join the question's
    last character with the option's first one.
    """
    written = [encode_text(question.question + option, tokenizer)[0][:length] for option in question.options]
    asked = encode_text(question.question, tokenizer)[0]
    shared = min(_shared(asked, ids) for ids in written)
    rows = []
    for ids in written:
        row = Encoded(ids=list(ids), labels=[IGNORE] * shared + list(ids[shared:]))
        if lm.soft is not None:
            row.insert(len(soft.added(tokenizer)[0]), range(SOFT, SOFT + lm.soft.tokens))
        rows.append(row)
    return rows


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# -------------------------------------------------------------------------------------------- measuring


def measure(general_rows: General, model: nn.Module, pad_id: int, questions: bool = True) -> Measured:
    """Losses on the texts and, with ``questions``, the answers. Leaves mode and random state as they were."""
    parts = [*general_rows.windows.values(), *(general_rows.options if questions else ())]
    rows = readable(model, [row for part in parts for row in part])
    sums = iter(_sums(model, rows, pad_id))
    losses, total, count = {}, 0.0, 0
    for name, part in general_rows.windows.items():
        own, tokens = sum(next(sums) for _ in part), sum(row.supervised for row in part)
        losses[name] = own / max(tokens, 1)
        total, count = total + own, count + tokens
    found = Measured(losses, total / max(count, 1))
    for question in general_rows.questions if questions else ():
        scores = [-next(sums) / len(option.encode()) for option in question.options]
        found.right.append(scores[0] > max(scores[1:]))
    return found


def _sums(model: nn.Module, rows: Sequence[Encoded], pad_id: int) -> list[float]:
    """Summed loss of each row."""
    device = next(model.parameters()).device
    found = [0.0] * len(rows)
    with undisturbed(model), torch.inference_mode():
        for numbers in in_order(lengths(rows), _BATCH_ROWS, _BATCH_TOKENS):
            losses = row_losses(model, collate([rows[i] for i in numbers], pad_id, device))
            for number, loss in zip(numbers, losses.tolist(), strict=True):
                found[number] = loss
    return found


def before(run: RunDir, rows: General | None, base: Base, model: nn.Module) -> Measured | None:
    """The numbers of the bare base: of this run's manifest, of the cache, or measured now.

    ``model`` is the untouched model. They go into the manifest as ``base_general``.
    """
    if rows is None:
        return None
    digest = rows.digest()
    known = run.manifest().get("base_general") or {}
    if known.get("digest") == digest:
        return _restored(known)
    settings = [VERSION, digest, base.hash(), str(base.dtype), base.device.type, base.quantised]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    path = cache.root() / "general" / f"{key[:32]}.json"
    found = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = _restored(json.loads(path.read_text(encoding="utf-8")))
    if found is None:
        say("measuring the base model on general text")
        found = measure(rows, model, base.tokenizer.pad_token_id or 0)
        if processes.first():
            with contextlib.suppress(OSError, ResourceError):  # a cache that cannot be written changes nothing
                write_json(path, _stored(found))
    run.update_manifest(base_general={"digest": digest, **_stored(found)})
    return found


def _stored(found: Measured) -> dict[str, Any]:
    return {"loss": found.loss, "losses": found.losses, "right": found.right}


def _restored(values: dict[str, Any]) -> Measured:
    losses = {str(name): float(loss) for name, loss in values["losses"].items()}
    return Measured(losses, float(values["loss"]), [bool(right) for right in values["right"]])


def relative(before: float, after: float) -> float:
    """By which share of itself the loss has risen."""
    return after / before - 1 if before else 0.0


def compared(rows: General, before: Measured, after: Measured) -> dict[str, Any]:
    """``forgetting`` of the manifest."""
    return {
        "text": rows.text,
        "tokens": rows.tokens,
        "before": before.loss,
        "after": after.loss,
        "relative": relative(before.loss, after.loss),
        "by_text": {name: {"before": before.losses[name], "after": after.losses[name]} for name in rows.windows},
        "probes": _probes(rows.questions, before.right, after.right),
    }


def _probes(questions: Sequence[Question], before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """How many questions were answered rightly, and which not any more."""
    every = list(zip(questions, before, after, strict=True))
    languages = {question.language: (0, 0, 0) for question in questions}
    for question, then, now in every:
        count, old, new = languages[question.language]
        languages[question.language] = (count + 1, old + then, new + now)
    names = ("questions", "before", "after")
    return {
        **dict(zip(names, (len(every), sum(before), sum(after)), strict=True)),
        "by_language": {name: dict(zip(names, counts, strict=True)) for name, counts in languages.items()},
        "lost": [q.question + q.options[0] for q, then, now in every if then and not now],
        "gained": [q.question + q.options[0] for q, then, now in every if now and not then],
    }
