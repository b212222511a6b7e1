"""How good a prompt is on development rows, without training; rows and words that were read once are not read again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tunery import scoring, stats
from tunery.config import Config
from tunery.data import cloze as templates
from tunery.data.batch import collate, in_order
from tunery.decide.candidates import Candidate
from tunery.errors import ConfigError, DataError
from tunery.evaluate import Settings, evaluate, loss_and_outputs
from tunery.models import shared_text
from tunery.models.cloze import label_scores
from tunery.models.load import Base
from tunery.protocols import Encoded, Example, Scored, Task
from tunery.run.encode import model_limit

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Material:
    """What prompts are tried with: a loaded model, a task that knows the labels, and rows."""

    config: Config
    base: Base
    model: Any
    task: Any
    settings: Settings
    metric: str
    rows: Sequence[Example]
    """To be scored, in random order: a stage of the search takes the first of them."""
    pool: Sequence[Example]
    """Training rows that are none of these: for label words and examples."""

    @property
    def higher_is_better(self) -> bool:
        return scoring.number_names()[self.metric].higher_is_better


@dataclass(frozen=True, slots=True)
class Score:
    value: float
    """Of the metric."""
    loss: float
    """Mean over the rows or the answers' tokens; decides between equal values."""
    rows: int

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % over rows, for accuracy (Wilson 1927)."""
        return stats.wilson(round(self.value * self.rows), self.rows) if metric == "accuracy" else None


class Scorer:
    """Scores candidates of one task. ``score`` raises ConfigError or DataError for one that cannot be used."""

    def __init__(self, material: Material) -> None:
        self.material = material

    def expect(self, candidates: Iterable[Candidate]) -> None:
        """These will be scored: what they share can be read at once."""

    def score(self, candidate: Candidate, rows: int) -> Score:
        """On the first ``rows`` rows."""
        raise NotImplementedError

    def length(self, candidate: Candidate) -> int:
        """Tokens a row may have with this prompt. Raises ConfigError if the model cannot read as many."""
        length, limit = self.material.settings.max_length + candidate.longer, model_limit(self.material.base)
        if length > limit:
            raise ConfigError(f"rows of {length} tokens, and the model reads {limit}", "lower --shots", "--shots")
        return length

    def made(self, candidate: Candidate) -> Task:
        """The task with this prompt, for the model that is loaded."""
        known = self.material.task
        made: Task = type(known)(type(known).Config.model_validate({"name": known.name, **candidate.task}))
        made.restore(known.state())
        return made


def scorer(material: Material) -> Scorer:
    return (ClozeScorer if material.task.name == "cloze" else AnswerScorer)(material)


# ------------------------------------------------------------------------------------------------- classes


@dataclass(slots=True)
class _Read:
    """What is known of a template: scores of words, [rows so far, words] and [blanks, words]."""

    task: Any
    words: list[Ids] = field(default_factory=list)
    scores: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    blanks: Tensor = field(default_factory=lambda: torch.zeros(0, 0))


class ClozeScorer(Scorer):
    """Candidates with the same template share its forward passes, whatever their words and calibration."""

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self._read: dict[str, _Read] = {}
        self._wanted: dict[str, list[Ids]] = {}

    def expect(self, candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            try:
                _, words = self._words(candidate)
            except ConfigError:
                continue  # ``score`` will say it
            wanted = self._wanted.setdefault(str(candidate.task["template"]), [])
            wanted += [ids for every in words for ids in every if ids not in wanted]

    def score(self, candidate: Candidate, rows: int) -> Score:
        task, words = self._words(candidate)
        self.expect([candidate])
        read = self._known(candidate, task, rows)
        columns = [read.words.index(ids) for every in words for ids in every]
        owners = [label for label, every in enumerate(words) for _ in every]
        logits = label_scores(read.scores[:rows, columns], owners)
        if task.config.calibrate:
            logits = logits - label_scores(read.blanks[:, columns], owners).softmax(-1).mean(0).log()
        examples = self.material.rows[:rows]
        targets = torch.tensor([task.labels.index(str(example.label)) for example in examples])
        loss = float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        guessed = [task.labels[i] for i in logits.argmax(1).tolist()]
        scored = Scored(guessed, [task.reference(example) for example in examples], labels=task.labels)
        scored.loss_sum, scored.loss_count = loss, rows
        value = scoring.score(scored, [self.material.metric], task.kinds)[self.material.metric]
        return Score(value, loss / rows, rows)

    def _words(self, candidate: Candidate) -> tuple[Any, list[list[Ids]]]:
        """→ the task, token ids of each label's words. Raises ConfigError for words or a template that cannot be."""
        task: Any = self.made(candidate)
        if task.soft_tokens(self.material.base.tokenizer):
            raise ConfigError("[soft:n] means nothing before it is trained", "take it out", "task.template")
        task.bind(self.material.base)
        tokenizer = self.material.base.tokenizer
        flat = iter(templates.word_ids(task.template, [w for words in task.words.values() for w in words], tokenizer))
        return task, [[next(flat) for _ in words] for words in task.words.values()]

    def _known(self, candidate: Candidate, task: Any, rows: int) -> _Read:
        """What this template says of its words on so many rows; computes what is missing."""
        name = str(candidate.task["template"])
        read = self._read.setdefault(name, _Read(task))
        new = [ids for ids in self._wanted[name] if ids not in read.words]
        length, done = self.length(candidate), len(read.scores)
        if new:
            blanks = self._blanks(read.task, new)
            known = self._scores(read.task, new, 0, done, length) if done else torch.zeros(0, len(new))
            read.blanks = torch.cat([read.blanks, blanks], 1) if read.words else blanks
            read.scores = torch.cat([read.scores, known], 1) if read.words else known
            read.words += new
        if rows > done:
            more = self._scores(read.task, read.words, done, rows, length)
            read.scores = torch.cat([read.scores, more])
        return read

    @torch.inference_mode()
    def _blanks(self, task: Any, words: Sequence[Ids]) -> Tensor:
        model = self.material.model
        return torch.cat([task.word_scores(model, batch, words).cpu() for batch in task.blanks(model, soft=False)])

    @torch.inference_mode()
    def _scores(self, task: Any, words: Sequence[Ids], begin: int, end: int, length: int) -> Tensor:
        parts = self._batches(task, self.material.rows[begin:end], length)
        found = torch.empty(end - begin, len(words))
        for numbers, model, batch in parts:
            found[numbers] = task.word_scores(model, batch, words).cpu()
        return found

    def _batches(self, task: Any, examples: Sequence[Example], length: int) -> Iterable[tuple[list[int], Any, Any]]:
        """→ numbers of the rows, the model to read them with, the batch."""
        base, settings = self.material.base, self.material.settings
        rows: Sequence[Encoded] = [
            task.encode(replace(example, label=None), base.tokenizer, length)[0] for example in examples
        ]
        model = self.material.model
        if base.family == "decoder" and not task.template.goes_on:
            model, rows = shared_text.after(model, rows)
        device = next(self.material.model.parameters()).device
        for numbers in in_order([len(row.ids) for row in rows], settings.batch_size, settings.batch_tokens):
            batch = collate([rows[i] for i in numbers], base.tokenizer.pad_token_id or 0, device)
            yield numbers, model, batch

    @torch.inference_mode()
    def vocabulary(self, candidate: Candidate, examples: Sequence[Example]) -> Tensor:
        """[examples, vocabulary]: log-probabilities of tokens in the label's place."""
        task, _ = self._words(candidate)
        parts = list(self._batches(task, examples, self.length(candidate)))
        found = [(numbers, task.vocabulary(model, batch).cpu()) for numbers, model, batch in parts]
        whole = torch.empty(len(examples), found[0][1].shape[1])
        for numbers, shares in found:
            whole[numbers] = shares
        return whole


# ------------------------------------------------------------------------------------------------- answers


class AnswerScorer(Scorer):
    """By the loss of the answers, or by generating where another number is asked for."""

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self._sums: dict[str, tuple[int, float, int]] = {}
        """By candidate: rows so far, summed loss, targets."""

    def score(self, candidate: Candidate, rows: int) -> Score:
        known, task = self.material, self.made(candidate)
        done, total, count = self._sums.get(candidate.key, (0, 0.0, 0))
        encoded = self._encoded(task, candidate, rows)
        if rows > done:
            model: Any = known.model
            rest: Sequence[Encoded] = encoded[done:]
            if known.base.family == "decoder":
                with torch.inference_mode():
                    model, rest = shared_text.after(model, rest)
            found = loss_and_outputs(model, task, rest, known.base.tokenizer.pad_token_id or 0, known.settings)
            total, count = total + found[0], count + found[1]
            self._sums[candidate.key] = (rows, total, count)
        loss = total / max(count, 1)
        if known.metric == "loss":
            return Score(loss, loss, rows)
        settings = replace(known.settings, metrics=[known.metric])
        results = evaluate(known.model, task, known.base.tokenizer, known.rows[:rows], encoded, settings)
        if known.metric not in results.metrics:
            raise DataError(f"the rows do not have what {known.metric} needs", "choose another --metric", "--metric")
        return Score(results.metrics[known.metric], loss, rows)

    def _encoded(self, task: Task, candidate: Candidate, rows: int) -> list[Encoded]:
        length = self.length(candidate)
        examples = self.material.rows[:rows]
        found = [made[0] for made in task.encode_all(examples, self.material.base.tokenizer, length)]
        for number, row in enumerate(found):
            row.row = number
        return found
