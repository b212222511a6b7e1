"""Trials that take no time: instead of training they score their settings by a formula, evaluation by evaluation.

Run as a program it is a machine that takes part in a search:
``python fake_trials.py URL NAME FOLDER MODEL DATA TRIALS SECONDS``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunery.config import Config
from tunery.decide import trial as trials
from tunery.decide.trial import Evaluation, Outcome
from tunery.rundir import RunDir

EVALUATIONS = 3


def quality(config: Config) -> float:
    """Best at lr 1e-3 and r 8."""
    r = getattr(config.method, "r", 8)
    return 1 - 0.2 * abs(math.log10((config.train.lr or 1e-5) / 1e-3)) - 0.02 * abs(r - 8)


def install(
    patch: Callable[[Any, str, Any], None],
    score: Callable[[Config], float] = quality,
    seconds: float = 0.0,
    began: Callable[[Config], None] = lambda config: None,
) -> None:
    """Put the fakes in place of ``trials.start`` and ``trials.go_on``; ``patch`` is setattr or pytest's."""

    def start(config: Config, *, watch: Any = None, **_: Any) -> Outcome:
        run = RunDir.create(Path(config.run.dir), config.run.name or "run")
        run.write_config(config)
        run.update_manifest(status="running")
        began(config)
        return train(run, watch, 0)

    def go_on(path: Path, *, watch: Any = None, **_: Any) -> Outcome:
        run = RunDir.open(path)
        return train(run, watch, len(run.metrics_file.read_text().splitlines()) if run.metrics_file.exists() else 0)

    def train(run: RunDir, watch: Any, done: int) -> Outcome:
        value = score(run.config())
        with run.lock():
            for number in range(done + 1, EVALUATIONS + 1):
                time.sleep(seconds)
                now = {"accuracy": value * number / EVALUATIONS}
                run.log_metrics({"step": number, "validation": now})
                found = Evaluation(run.path, number, EVALUATIONS, float(number), now)
                if watch is not None and watch(found) and number < EVALUATIONS:
                    run.update_manifest(status="paused")
                    return Outcome("paused", run.path)
            run.update_manifest(status="completed", seconds=3.0, metrics={"accuracy": value})
        return Outcome("completed", run.path)

    patch(trials, "start", start)
    patch(trials, "go_on", go_on)


def main(url: str, name: str, folder: str, model: str, data: str, count: str, seconds: str) -> None:
    from tunery import config
    from tunery.decide.search import Options, search

    install(setattr, seconds=float(seconds))
    values = {"model": model, "task": "classify", "data": {"train": data}, "run": {"dir": folder, "name": "search"}}
    space = {"train.lr": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "method.r": [2, 4, 8, 16]}
    options = Options(trials=int(count), storage=url, study=name, workers=2, stale_after=2.0, pruner="none")
    print(json.dumps(search(config.load(values=values), space, options), default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
