"""Trials without a process of their own: tests of what decides need many trainings, not many starts of Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunery.config import Config
from tunery.decide import score, trial
from tunery.decide.trial import Evaluation, Outcome
from tunery.errors import Interrupted, Paused, TuneryError
from tunery.run import train as training
from tunery.run.run import Run
from tunery.rundir import RunDir


def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """→ the names of the trials that are started or gone on with, and ``test NAME`` where test rows are scored."""
    calls: list[str] = []

    def outcome(work: Callable[[], RunDir], name: str, path: Path) -> Outcome:
        calls.append(name)
        try:
            return Outcome("completed", work().path)
        except Paused:
            return Outcome("paused", path)
        except Interrupted:
            return Outcome("interrupted", path)
        except TuneryError as error:
            return Outcome("failed", path if (path / "manifest.json").is_file() else None, str(error))

    def pause(watch: Any) -> Any:
        fields = ("run", "step", "total_steps", "seconds", "metrics")
        return watch and (lambda found: watch(Evaluation(*(getattr(found, name) for name in fields))))

    def start(settings: Config, *, watch: Any = None, **_: Any) -> Outcome:
        name = str(settings.run.name)
        return outcome(lambda: training.train(settings, pause(watch)), name, Path(settings.run.dir) / name)

    def go_on(run: Path, *, watch: Any = None, **_: Any) -> Outcome:
        return outcome(lambda: training.resume(run, pause(watch)), run.name, run)

    def scored(run: Path, cpus: Any, log: Path, timeout: float) -> str:
        calls.append(f"test {run.name}")
        Run(run).evaluate(name=score.NAME)
        return ""

    monkeypatch.setattr(trial, "start", start)
    monkeypatch.setattr(trial, "go_on", go_on)
    monkeypatch.setattr(score, "start", scored)
    return calls
