"""Whether an export is the same model as the run: the same rows through both, and how far their answers differ.

Compared are the token ids that the consumer's tokenizer makes of the questions, the distributions at every supervised
position (of the labels, for a classifier), and the numbers of the task. Kullback-Leibler divergences are in nats, from
the run's distribution to the export's. For a number (regression) it is that of two normal distributions of deviation 1
around the two, in units of the training targets' deviation, as squared error means it: half the squared difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tunery import scoring
from tunery.data.batch import collate
from tunery.errors import ConfigError, GateError
from tunery.evaluate import answer, undisturbed
from tunery.export.consumers.transformers import logits
from tunery.export.kind import Subject
from tunery.export.probes import Probes
from tunery.models import quantise
from tunery.protocols import Prediction, Scored
from tunery.run import train as training


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an export must reach."""

    kl: float
    """Mean divergence at most this; at any one position ``WORST`` times as much."""
    top1: float
    """Share of positions with the same most probable class, at least."""
    why: str = ""


WORST = 100
"""Divergences have a long tail: where the run is undecided, rounding moves more."""
BOUNDS = {
    "f32": Bounds(1e-5, 0.99, "the same weights in the same arithmetic: only the order of sums differs"),
    "f16": Bounds(1e-4, 0.98, "weights keep 11 bits, and llama.cpp its cache too"),
    "bf16": Bounds(2e-4, 0.95, "weights keep 8 bits"),
    "int8": Bounds(2e-2, 0.90, "weights and inputs of linear layers keep 8 bits, with one scale a tensor or channel"),
    "q8_0": Bounds(1e-2, 0.95, "weights keep 8 bits, with a scale every 32"),
    "q4_0": Bounds(3e-1, 0.75, "weights keep 4 bits, with a scale every 32"),
}
"""By dtype of the export. A run on a quantised base computes in its own dtype: at least the bounds of bf16 count."""


@dataclass(slots=True)
class Answers:
    """What one side says of the probe rows; ``folder`` has the logits of row n in 000n.npy."""

    tokens: list[list[int]]
    texts: list[str]
    folder: Path

    def logits(self, row: int) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.load(self.folder / f"{row:04d}.npy", mmap_mode="r", allow_pickle=False)
        return found


def bounds(dtype: str, subject: Subject, kl: float | None = None, top1: float | None = None) -> Bounds:
    """Those of the table, or what the user wants. Raises ConfigError for one that nothing could pass or miss."""
    if kl is not None and not 0 < kl < float("inf"):
        raise ConfigError(f"a bound of {kl} is none", "a small positive number, such as 0.01", "--max-kl")
    if top1 is not None and not 0 <= top1 <= 1:
        raise ConfigError(f"{top1} is no share", "a number between 0 and 1", "--min-top1")
    found = BOUNDS[dtype]
    if subject.base.quantised and found.kl < BOUNDS["bf16"].kl:
        found = BOUNDS["bf16"]
    return Bounds(found.kl if kl is None else kl, found.top1 if top1 is None else top1, found.why)


def reference(subject: Subject, probes: Probes, folder: Path) -> Answers:
    """The run's own answers, with its weights as they are and computed in fp32 (a quantised base: in its dtype)."""
    folder.mkdir(parents=True, exist_ok=True)
    tuned = subject.load()
    model = tuned.model if quantise.is_quantised(tuned.model) else tuned.model.float()
    with undisturbed(model):
        for number, row in enumerate(probes.own):
            np.save(folder / f"{number:04d}.npy", logits(model, row))
        settings = training.settings(subject.config, subject.base, None)
        found = answer(model, tuned.task, tuned.tokenizer, probes.asked, settings) if probes.asked else []
    return Answers(probes.expected, [str(prediction.value) for prediction in found], folder)


def compare(subject: Subject, probes: Probes, ours: Answers, theirs: Answers) -> dict[str, Any]:
    """The numbers of ``parity.json``. Raises GateError if the consumer's logits have another shape."""
    divergences: list[np.ndarray[Any, Any]] = []
    same: list[np.ndarray[Any, Any]] = []
    for number in range(len(probes.rows)):
        one, other = ours.logits(number), theirs.logits(number)
        if one.shape != other.shape:
            problem = f"the run gives {list(one.shape)} logits of a row, the export {list(other.shape)}"
            raise GateError(f"nothing was published: {problem}", "see docs/export.md")
        kl, top = _differences(torch.tensor(one), torch.tensor(other), probes.answers)
        divergences.append(kl)
        same.append(top)
    kls, tops = np.concatenate(divergences), np.concatenate(same)
    found: dict[str, Any] = {
        "rows": len(probes.rows),
        "positions": len(kls),
        "token_ids_equal": _share(a == b for a, b in zip(ours.tokens, theirs.tokens, strict=True)),
        "top1": None if probes.answers == "numbers" else float(tops.mean()),
        "kl_mean": float(kls.mean()),
        "kl_max": float(kls.max()),
        "same_answers": _share(a == b for a, b in zip(ours.texts, theirs.texts, strict=True)) if ours.texts else None,
        "metrics": {"run": metrics(subject, probes, ours), "export": metrics(subject, probes, theirs)},
    }
    return found


def failures(found: dict[str, Any], wanted: Bounds) -> list[str]:
    """What is out of bounds, in words; a number that is none is."""
    said = []
    if found["token_ids_equal"] < 1:
        said.append(f"{1 - found['token_ids_equal']:.0%} of the questions have other token ids")
    if found["top1"] is not None and not found["top1"] >= wanted.top1:
        said.append(f"the most probable token or label is the same at {found['top1']:.1%} (at least {wanted.top1:.1%})")
    if not found["kl_mean"] <= wanted.kl:
        said.append(f"mean KL {found['kl_mean']:.2g} (at most {wanted.kl:.2g})")
    if not found["kl_max"] <= WORST * wanted.kl:
        said.append(f"largest KL {found['kl_max']:.2g} (at most {WORST * wanted.kl:.2g})")
    return said


def _differences(one: Tensor, other: Tensor, answers: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """[positions, classes] twice → divergence and agreement of each position."""
    one, other = one.double(), other.double()
    if answers == "numbers":
        return ((one - other) ** 2 / 2).mean(-1).numpy(), np.ones(len(one), dtype=bool)
    if answers == "labels":
        shares = one.sigmoid()
        sure = nn.functional.logsigmoid
        kl = shares * (sure(one) - sure(other)) + (1 - shares) * (sure(-one) - sure(-other))
        return kl.sum(-1).numpy(), ((one > 0) == (other > 0)).all(-1).numpy()
    first, second = one.log_softmax(-1), other.log_softmax(-1)
    kl = (first.exp() * (first - second)).nan_to_num(nan=float("inf")).sum(-1)
    return kl.clamp(min=0).numpy(), (one.argmax(-1) == other.argmax(-1)).numpy()


def _share(values: Any) -> float:
    listed = [bool(value) for value in values]
    return sum(listed) / max(len(listed), 1)


# ----------------------------------------------------------------------------------------- the task's numbers


def metrics(subject: Subject, probes: Probes, found: Answers) -> dict[str, float]:
    """The task's own numbers on these rows, by the same code for both sides."""
    task = subject.task
    if task.name == "cloze":  # its labels are scored with one pass a word; the words themselves are compared above
        return {}
    if any(probes.targets):
        return _text_metrics(subject, probes, found)
    total, count, predictions = 0.0, 0, list[Prediction]()
    for number, row in enumerate(probes.encoded):
        recorded = _Recorded(torch.tensor(found.logits(number)), subject.task.name == "tag")
        loss, targets, outputs = task.loss(recorded.eval(), collate([row.without_soft()], 0))
        total, count = total + float(loss), count + int(targets)
        predictions += task.decode(outputs) if outputs is not None else []
    plain = [row.without_soft() for row in probes.encoded]
    combined = task.combine(plain, predictions, probes.examples)
    scored = Scored(
        predictions=[prediction.value for prediction in combined],
        references=[task.reference(example) for example in probes.examples],
        labels=tuple(getattr(task, "labels", ())),
        loss_sum=total,
        loss_count=count,
    )
    return scoring.score(scored, list(task.metrics), task.kinds)


def _text_metrics(subject: Subject, probes: Probes, found: Answers) -> dict[str, float]:
    total, count = 0.0, 0
    for number, targets in enumerate(probes.targets):
        shares = torch.tensor(found.logits(number)).float().log_softmax(-1)
        total -= float(shares.gather(1, torch.tensor(targets)[:, None]).sum())
        count += len(targets)
    scored = Scored(loss_sum=total, loss_count=count)
    names = [name for name in subject.task.metrics if scoring.metric_of(name).kind == "loss"]
    if found.texts:
        scored.predictions = list(found.texts)
        scored.references = [subject.task.reference(example) for example in probes.asked]
        scored.contains = [example.contains for example in probes.asked]
        names += [name for name in subject.task.metrics if scoring.metric_of(name).kind == "text"]
    return scoring.score(scored, names, subject.task.kinds)


class _Recorded(nn.Module):
    """A model that says what was recorded, so that the task can turn it into losses and predictions."""

    def __init__(self, said: Tensor, tagged: bool) -> None:
        """``tagged``: [length, classes] of one row, instead of [1, classes] or of [2, length] for a span."""
        super().__init__()
        self.said, self.tagged = said, tagged

    def forward(self, **_: Any) -> Any:
        logits = self.said[None] if self.tagged else self.said
        return SimpleNamespace(logits=logits, start_logits=self.said[:1], end_logits=self.said[-1:])


def texts(subject: Subject, answers: Sequence[Sequence[int]]) -> list[str]:
    """Token ids → what a reader sees."""
    return [subject.tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids in answers]
