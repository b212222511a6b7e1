"""The pieces of a training that are measured: steps, passes of evaluation, answers, files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tunery.data.batch import in_order
from tunery.data.encoded import lengths, supervised_each
from tunery.evaluate import loss_and_outputs, readable, undisturbed
from tunery.generate.engine import Sampling, generate
from tunery.models import machine, weights
from tunery.protocols import SOFT
from tunery.run import build, cost, prediction, work
from tunery.run.prepare import Prepared
from tunery.run.train import settings
from tunery.rundir import RunDir
from tunery.train import checkpoint
from tunery.train.loop import Trainer

QUANTILES = (1.0, 0.5, 0.05, 0.95, 0.45, 0.75, 0.25)
"""Steps to measure, by the place of their work among all of an epoch: first the longest and the median."""
LONGEST, MEDIAN = (1.0, 0.95), (0.5, 0.45)
LEAST, ENOUGH = 4, 60.0
"""Steps that are measured in any case; after so many seconds no further one is."""
MORE, MORE_SECONDS = 24, 20.0
"""Further steps that show how memory grows with each new size of passes, and for how long at most."""
PASSES, SIZES = 5, 24
"""Forward passes of evaluation that are measured, and of the base, which meets each size for the first time: as many
as show how much memory their kernels take."""
WRITTEN, TOKENS, SHORT = 16, 128, 24
"""Answers that are generated to be timed, tokens of the base's, and tokens of the tuned model's."""
DISK = 512_000_000
"""Bytes that are written at most to see how long writing takes."""

def timed(doing: Callable[[], Any]) -> tuple[Any, float]:
    """→ what it returned, seconds."""
    _settle()
    began = time.perf_counter()
    value = doing()
    _settle()
    return value, time.perf_counter() - began


def _settle() -> None:
    """A GPU may still be computing what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Steps:
    """Real optimizer steps of the first epoch, each made twice: the first pass of a size makes kernels for it, which
    takes time and stays in memory.
    """

    def __init__(self, trainer: Trainer, prepared: Prepared) -> None:
        self.trainer, self.device = trainer, prepared.base.device
        sizes, targets = trainer.lengths, supervised_each(trainer.rows)
        plan = trainer.batching.plan(sizes, trainer.rows_per_step, 0)[: 10 * work.MOST]
        self.passes = [work.passes_of(rows, sizes, targets, trainer.batching) for rows in plan]
        self.work = [np.append(sum(passes), 1.0) for passes in self.passes]
        self.order = sorted(range(len(plan)), key=lambda place: (self.work[place][1], place))
        self.kinds: set[tuple[float, float]] = set()
        self.warm = cost.Points()
        self.first = 0.0
        """Seconds more that a new size of passes takes."""
        self.growth = 0.0
        """Bytes that a new size of passes adds."""
        self.named: dict[str, list[float]] = {"longest": [], "median": []}

    def measure(self) -> None:
        self.trainer.model.train()
        heaviest = self._heaviest()
        for place in [*dict.fromkeys(heaviest), heaviest[0]]:
            self._step(place)  # not counted: moments are made, and memory reaches its first peak
        peak, met = machine.peak_memory(self.device), len(self.kinds)
        later, new, spent = 0.0, 0, 0.0
        for quantile in QUANTILES:
            place = self.order[round(quantile * (len(self.order) - 1))]
            (cold, fresh), (warm, _) = self._step(place), self._step(place)
            self.warm.add(self.work[place], warm)
            self._name(quantile, warm)
            later, new, spent = later + (cold - warm if fresh else 0.0), new + fresh, spent + cold + warm
            if len(self.warm.seconds) >= LEAST and spent > ENOUGH:
                break
        self.first = max(later / new, 0.0) if new else 0.0
        spent = 0.0
        for place in work.evenly(self.order, MORE):
            if spent > MORE_SECONDS:
                break
            if not self.kinds.issuperset(map(work.kind, self.passes[place])):
                spent += self._step(place)[0]
        self._step(heaviest[0])
        more = len(self.kinds) - met
        self.growth = (machine.peak_memory(self.device) - peak) / more if more else 0.0

    def _step(self, place: int) -> tuple[float, int]:
        """Make the step at that place of the epoch → seconds, passes of a size that was not met before."""
        kinds = set(map(work.kind, self.passes[place]))
        fresh = len(kinds - self.kinds)
        self.kinds |= kinds
        self.trainer.now.step = place
        return timed(self.trainer.step)[1], fresh

    def _name(self, quantile: float, seconds: float) -> None:
        for name, group in (("longest", LONGEST), ("median", MEDIAN)):
            if quantile in group:
                self.named[name].append(seconds)

    def _heaviest(self) -> list[int]:
        """Places of the steps with the pass of most targets, of most padded tokens, and of the longest rows."""
        places = range(len(self.passes))
        most = [np.array([(p[2], p[1], p[3] / p[1]) for p in passes]).max(axis=0) for passes in self.passes]
        return [max(places, key=[float(each[i]) for each in most].__getitem__) for i in range(3)]


def reading(prepared: Prepared, model: nn.Module, most: int = PASSES) -> cost.Points:
    """Forward passes of evaluation over validation rows: from light to heavy, then others in between."""
    config = prepared.config
    rows = prepared.splits["validation"].rows
    sizes, targets = lengths(rows), supervised_each(rows)
    passes = in_order(sizes, config.eval.batch_size, config.train.micro_tokens)
    passes.sort(key=lambda numbers: float(work.pass_work(numbers, sizes, targets)[1]))
    shares = [i / (PASSES - 1) for i in range(PASSES)]
    shares += [i / most for i in range(1, most) if most > PASSES and len(passes) > PASSES]
    chosen = [passes[round(share * (len(passes) - 1))] for share in shares]
    found, pad = cost.Points(), prepared.base.tokenizer.pad_token_id or 0
    how = settings(config, prepared.base, 0)
    for numbers in chosen:
        part = readable(model, [rows[i] for i in numbers])
        _, seconds = timed(partial(loss_and_outputs, model, prepared.task, part, pad, how))
        found.add(work.pass_work(numbers, sizes, targets), seconds)
        if len(found.seconds) >= PASSES and sum(found.seconds) > MORE_SECONDS:
            break
    return found


# ------------------------------------------------------------------------------------------------- answers


def _asked(prepared: Prepared) -> list[list[int]]:
    """Prompts of a few rows that will be answered."""
    asked = next((a for split in ("test", "validation") if len(a := _rows(prepared, split))), [])
    most = min(WRITTEN, prepared.config.eval.batch_size)
    prompts = prediction.prompts_of(prepared, work.evenly(asked, most))
    return [[i for i in ids if i < SOFT] for ids in prompts]  # as the base reads them


def _rows(prepared: Prepared, split: str) -> Sequence[Any]:
    return prediction.asked_of(prepared, split) if split in prepared.splits else ()


def writing(prepared: Prepared, model: nn.Module, known: dict[str, Any]) -> tuple[cost.Points, list[int]]:
    """The base model's answers to a few rows: what they cost, and how long they are."""
    if known:
        return cost.Points(**known["writing"]), list(known["base_answers"])
    points = cost.Points()
    prompts = _asked(prepared)
    if not prompts:
        return points, []
    most = min(prepared.config.eval.max_new_tokens, TOKENS)
    stop = prepared.task.stop_ids(prepared.base.tokenizer)
    _trace(model, prompts[:2], SHORT, (), points)
    written = _trace(model, prompts, most, stop, points)
    if most == TOKENS:  # those that were cut may have gone on to the limit
        written = [prepared.config.eval.max_new_tokens if n >= most else n for n in written]
    return points, written


def writing_ratio(prepared: Prepared, model: nn.Module, base: cost.Points) -> float:
    """How much longer the tuned model takes to write than the base."""
    if not base.seconds:
        return 1.0
    points = cost.Points()
    _trace(model, _asked(prepared), SHORT, (), points)
    expected = sum(base.total(np.array(each)).value for each in points.work)
    return sum(points.seconds) / expected if expected else 1.0


def _trace(
    model: nn.Module, prompts: Sequence[Sequence[int]], most: int, stop: Sequence[int], points: cost.Points
) -> list[int]:
    """Generate, and add what stretches of a few tokens took → tokens of each answer."""
    counts = [0] * len(prompts)
    times: list[float] = []
    alive: list[int] = []

    def heard(index: int, _token: int) -> None:
        number = counts[index]
        counts[index] += 1
        if number == len(times):
            times.append(time.perf_counter())
            alive.append(0)
        alive[number] += 1

    began = time.perf_counter()
    with undisturbed(model):
        generate(model, prompts, stop, Sampling(max_new_tokens=most), len(prompts), on_token=heard)
    longest = max(map(len, prompts))
    first = times[0] if times else time.perf_counter()
    points.add([len(prompts) * longest, 1, len(prompts), len(prompts) * longest], first - began)
    for start in range(1, len(times), 8):
        end = min(start + 8, len(times))
        rows = np.array(alive[start - 1 : end - 1], dtype=float)
        context = longest + np.arange(start, end)
        points.add([0, end - start, rows.sum(), float((rows * context).sum())], times[end - 1] - times[start - 1])
    return counts


# --------------------------------------------------------------------------------------------------- files


def write_checkpoint(trainer: Trainer, run: RunDir) -> tuple[float, float]:
    """Seconds of a checkpoint with the best weights, and a byte; large ones are scaled up from a part."""
    tensors = {**trainer.optimizer.state(), **weights.trainable(trainer.model)}
    free = shutil.disk_usage(run.path).free
    most, size, part = min(DISK, free // 4), 0, {}
    for name, tensor in tensors.items():
        if size < most:
            part[name] = tensor.detach()
            size += tensor.numel() * tensor.element_size()
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if not size:
        return 0.0, 0.0
    groups = {"optimizer": part, "random": checkpoint.random_state()}
    _, seconds = timed(lambda: checkpoint.save(run.checkpoints, 1, groups, asdict(trainer.now)))
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    return seconds * whole / size, seconds / size


def save(tuned: build.Tuned, folder: Path, per_byte: float) -> tuple[int, float]:
    """Bytes of what the method saves, and seconds of saving it."""
    trained = sum(p.numel() * p.element_size() for p in weights.trainable(tuned.model).values())
    if trained > min(DISK, shutil.disk_usage(folder.parent).free // 4):
        return trained, trained * per_byte
    _, seconds = timed(lambda: tuned.save(folder))
    return prediction.adapter_bytes(folder), seconds
