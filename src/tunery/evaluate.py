"""Model + examples → numbers and predictions. Never touches the state of training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunery import scoring
from tunery.data import soft
from tunery.data.batch import collate, in_order
from tunery.data.encoded import lengths
from tunery.generate.engine import Sampling, generate
from tunery.models.attention import reset_attention
from tunery.models.soft import reads
from tunery.protocols import SOFT, Encoded, Example, Prediction, Scored, Task


@dataclass(slots=True)
class Results:
    """What an evaluation found. ``predictions`` are in the order of the rows."""

    metrics: dict[str, float] = field(default_factory=dict)
    predictions: list[Prediction] = field(default_factory=list)
    confusion: dict[str, Any] | None = None
    """``labels`` and ``counts``: counts[i][j] rows of true label i were given label j."""
    generated_rows: int = 0
    loss: float = 0.0
    """Mean over all targets of the rows, whether or not it is among the metrics."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to evaluate. ``metrics``: names of numbers, None for the task's own."""

    metrics: Sequence[str] | None = None
    batch_size: int = 32
    batch_tokens: int = 8192
    max_length: int = 512
    """Tokens of an encoded row."""
    max_prompt: int = 512
    """Tokens of a question: what the model reads, less the answer. Rows were cut to ``max_length`` to learn from
    them; a question is never cut."""
    sampling: Sampling = field(default_factory=Sampling)
    generate_rows: int | None = None
    """Answer only that many rows (None: all); the loss always sees every row."""


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards the same mode and random state as before: turning evaluation on must
    not change what training does.
    """
    was_training = model.training
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        model.eval()
        reset_attention(model)
        try:
            yield
        finally:
            model.train(was_training)


def readable(model: nn.Module, rows: Sequence[Encoded]) -> Sequence[Encoded]:
    """The rows as this model reads them: the bare base gets them without soft tokens."""
    return rows if reads(model) else [row.without_soft() for row in rows]


def prompt_of(model: nn.Module, task: Task, tokenizer: Any, example: Example, settings: Settings) -> list[int]:
    """Ids to generate an answer from. Raises DataError for a prompt that does not fit."""
    ids = soft.prompt(task, example, tokenizer, settings.max_prompt)
    return ids if reads(model) else [i for i in ids if i < SOFT]


def loss_and_outputs(
    model: nn.Module, task: Task, rows: Sequence[Encoded], pad_id: int, settings: Settings
) -> tuple[float, int, list[Prediction]]:
    """→ summed loss, number of targets, and one prediction a row where the task scores rows."""
    device = next(model.parameters()).device
    sizes = lengths(rows)
    total, count = 0.0, 0
    predictions: list[Prediction | None] = [None] * len(rows)
    with undisturbed(model), torch.inference_mode():
        for numbers in in_order(sizes, settings.batch_size, settings.batch_tokens):
            loss, targets, outputs = task.loss(model, collate([rows[i] for i in numbers], pad_id, device))
            total, count = total + float(loss), count + int(targets)
            if outputs is not None:
                for number, prediction in zip(numbers, task.decode(outputs), strict=True):
                    predictions[number] = prediction
    return total, count, [p for p in predictions if p is not None]


def answer(
    model: nn.Module,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: Settings,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
) -> list[Prediction]:
    """Generated answers, in the order of the examples; ``first``: number of the first one, on which what is sampled
    depends. Raises DataError for a prompt that does not fit.
    """
    prompts = [prompt_of(model, task, tokenizer, example, settings) for example in examples]
    with undisturbed(model):
        stop = task.stop_ids(tokenizer)
        answers = generate(
            model, prompts, stop, settings.sampling, settings.batch_size, progress=progress, first=first
        )
    return [Prediction(tokenizer.decode(ids, skip_special_tokens=True).strip()) for ids in answers]


def evaluate(
    model: nn.Module,
    task: Task,
    tokenizer: Any,
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    settings: Settings,
    progress: Callable[[int], None] | None = None,
) -> Results:
    """All numbers of the task for these examples, the one that early stopping looks at always among them.

    Args:
        rows: the encoded examples (several rows of one example are windows of it).
    """
    rows = readable(model, rows)
    wanted = list(dict.fromkeys([*(settings.metrics or task.metrics), task.monitor]))
    total, count, predictions = loss_and_outputs(model, task, rows, tokenizer.pad_token_id or 0, settings)
    scored = Scored(loss_sum=total, loss_count=count)
    results = Results(loss=total / max(count, 1))
    texts_wanted = [name for name in wanted if scoring.metric_of(name).kind == "text"]
    if task.output == "logits":
        results.predictions = task.combine(rows, predictions, examples)
        scored.predictions = [p.value for p in results.predictions]
        scored.references = [task.reference(example) for example in examples]
        scored.labels = tuple(getattr(task, "labels", ()))
        results.confusion = _confusion(scored) if scored.labels and not getattr(task, "multi", False) else None
    elif texts_wanted and settings.generate_rows != 0:
        asked = [e for e in examples if task.reference(e)][: settings.generate_rows]
        results.predictions = answer(model, task, tokenizer, asked, settings, progress)
        results.generated_rows = len(asked)
        scored.predictions = [p.value for p in results.predictions]
        scored.references = [task.reference(example) for example in asked]
        scored.contains = [example.contains for example in asked]
    if not scored.predictions:
        wanted = [name for name in wanted if name not in texts_wanted]
    results.metrics = scoring.score(scored, wanted, task.kinds)
    return results


def _confusion(scored: Scored) -> dict[str, Any]:
    place = {label: i for i, label in enumerate(scored.labels)}
    counts = [[0] * len(place) for _ in place]
    for reference, prediction in zip(scored.references, scored.predictions, strict=True):
        counts[place[reference]][place[prediction]] += 1
    return {"labels": list(scored.labels), "counts": counts}
