"""The trainings of a race: as many at a time as there are shares of the CPUs, each until a step, against the clock."""

from __future__ import annotations

import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from tunery.config import Config
from tunery.decide import trial
from tunery.decide.rungs import Speed
from tunery.decide.trial import Outcome
from tunery.errors import ModelError
from tunery.models import machine
from tunery.rundir import RunDir, read_jsonl
from tunery.train.progress import Evaluation

T = TypeVar("T")
OPTIMIZER = 20
"""Bytes a parameter when all are trained: weights, gradients, fp32 copies and two moments."""
APART = 1_500_000_000
"""Bytes of a process beside that: libraries, activations of small batches."""
MOST = 8
"""Workers."""


class Clock:
    """Wall time, that of earlier processes included."""

    def __init__(self, budget: float, used: float = 0.0) -> None:
        self.budget, self._before, self._began = budget, used, time.monotonic()

    @property
    def used(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        return self.budget - self.used


def shares(workers: int | None, parameters: int, on_cpu: bool) -> list[list[int]]:
    """CPU numbers for each worker: as many workers as have a CPU and memory to train all parameters, one on a GPU."""
    numbers = machine.cpu_numbers()
    count = workers or (min(machine.cpus(), MOST, _fitting(parameters)) if on_cpu else 1)
    return machine.shares(min(count, len(numbers)), numbers)


def _fitting(parameters: int) -> int:
    free = machine.available_memory(torch.device("cpu")) or 0
    return max(free // (parameters * OPTIMIZER + APART), 1)


def each(
    jobs: Iterable[T], cpus: Sequence[list[int]], work: Callable[[T, list[int]], None], stop: threading.Event
) -> None:
    """Do all jobs, at most one a share of the CPUs at a time, in their order. ``stop`` is set where one raises."""
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in cpus:
        free.put(share)

    def one(job: T) -> None:
        share = free.get()
        try:
            work(job, share)
        finally:
            free.put(share)

    with ThreadPoolExecutor(len(cpus)) as pool:
        waiting = [pool.submit(one, job) for job in jobs]
        try:
            for done in waiting:
                done.result()
        except BaseException:  # Ctrl-C: those that run pause at their next evaluation, and no other begins
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def advance(
    config: Config,
    until: int,
    cpus: list[int],
    log: Path,
    timeout: float,
    stop: threading.Event,
    before: dict[str, Any],
    known: Speed | None,
) -> dict[str, Any]:
    """Train until an evaluation at or after a step, from wherever the run stands → how it went.

    Args:
        stop: pause at the next evaluation.
        before: what an earlier call said of this run.
        known: what is taken where this call cannot measure a time (one evaluation alone).
    """
    run = Path(config.run.dir) / str(config.run.name)
    began, marks = time.monotonic(), []

    def watch(found: Evaluation) -> bool:
        marks.append((time.monotonic(), found.step, found.seconds))
        return found.step >= until or stop.is_set()

    try:
        begun = trial.standing(run, min(timeout, trial.GRACE))
    except ModelError as error:
        return {**before, "run": run.name, "status": "interrupted", "problem": str(error), "speed": before.get("speed")}
    if begun is None:
        outcome = trial.start(config, watch=watch, cpus=cpus, log=log, timeout=timeout)
    else:
        outcome = trial.go_on(run, watch=watch, cpus=cpus, log=log, timeout=timeout)
    ended = time.monotonic()
    late = outcome.status != "completed" and ended - began >= timeout
    return {
        "run": run.name,
        "status": "interrupted" if late else outcome.status,
        "problem": "no time left" if late else outcome.problem,
        "step": marks[-1][1] if marks else before.get("step", 0),
        "train_seconds": round(marks[-1][2] if marks else before.get("train_seconds", 0.0), 3),
        "wall_seconds": round(before.get("wall_seconds", 0.0) + ended - began, 3),
        "speed": _speed(began, marks, ended, outcome, before, known),
    }


def _speed(
    began: float,
    marks: Sequence[tuple[float, int, float]],
    ended: float,
    outcome: Outcome,
    before: dict[str, Any],
    known: Speed | None,
) -> dict[str, float] | None:
    """Seconds of the parts of a training, from when its evaluations ended; None where nothing was seen of it."""
    if not marks:
        return before.get("speed")
    first, last = marks[0], marks[-1]
    steps, seconds = last[1] - before.get("step", 0), last[2] - before.get("train_seconds", 0.0)
    if len(marks) > 1:
        evaluation = (last[0] - first[0] - (last[2] - first[2])) / (len(marks) - 1)
    else:
        evaluation = known.evaluation if known else 0.0
    start = first[0] - began - (first[2] - before.get("train_seconds", 0.0)) - evaluation
    finish = ended - last[0] if outcome.status == "completed" else (known.finish if known else evaluation)
    return {
        "start": max(start, 0.0),
        "step": max(seconds, 0.0) / max(steps, 1),
        "evaluation": max(evaluation, 0.0),
        "finish": finish,
    }


def remove(run: Path) -> None:
    """A run that was only for measuring."""
    shutil.rmtree(run, ignore_errors=True)


def history(run: Path) -> list[tuple[int, dict[str, float]]]:
    """Step and numbers of each evaluation of the validation rows."""
    records = read_jsonl(RunDir(run).metrics_file, torn=True)
    return [(int(r["step"]), r["validation"]) for r in records if "validation" in r]


def manifest(run: Path) -> dict[str, Any]:
    """Empty where there is no run."""
    found = RunDir(run)
    return found.manifest() if found.manifest_file.is_file() else {}
