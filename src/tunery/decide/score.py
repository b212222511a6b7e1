"""Test rows of finalists, in processes of their own: ``python -m tunery.decide.score RUN`` with CPUs on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunery.decide import controls, pace, rungs, track
from tunery.decide.arms import Arm
from tunery.decide.rungs import Speed
from tunery.run.records import say
from tunery.rundir import RunDir

if TYPE_CHECKING:
    from tunery.decide.race import Race

NAME = "test"
"""Of the folder below ``eval/``."""


def start(run: Path, cpus: Sequence[int] | None, log: Path, timeout: float) -> str:
    """→ what went wrong, empty if nothing did."""
    command = [sys.executable, "-m", "tunery.decide.score", str(run)]
    with log.open("a", encoding="utf-8") as stream:
        try:
            done = subprocess.run(
                command, input=json.dumps(list(cpus or ())), text=True, stdout=stream, stderr=stream, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return "no time left to score the test rows"
    return "" if done.returncode == 0 else f"scoring the test rows failed, see {log}"


def finalists(race: Race, alive: Sequence[Arm]) -> None:
    """Of the finalists, and of the best of what is not trained, as often as there is time for: best first."""
    if "test" not in race.state["rows"]:
        return
    others = race.ranked([arm for arm in race.controls if arm.name != controls.SHUFFLED], race.seeds)[:1]
    chosen = [*alive[: rungs.FINALISTS], *others]
    ready = [
        race.run_name(arm, seed)
        for seed in race.seeds
        for arm in chosen
        if track.manifest(race.folder / race.run_name(arm, seed)).get("status") == "completed"
    ]
    speed = Speed(**race.state["speed"])
    needed = pace.scoring_time(race, speed) / 2

    def work(name: str, cpus: list[int]) -> None:
        run = RunDir(race.folder / name)
        if (run.evaluation(NAME) / "results.json").is_file():
            return
        first = name in ready[: len(chosen)]
        if not first and race.clock.left < needed:
            return
        problem = start(run.path, cpus, race.log(name), max(race.clock.left, 0.05 * race.clock.budget))
        if problem:
            say(f"{name}: {problem}")

    track.each(ready, race.cpus, work, race.stop)
    race.update(test_rows_read_for=ready)


def main() -> None:
    """Do it; a failure is in the log and in the exit code."""
    cpus = json.loads(sys.stdin.read() or "[]")
    if cpus and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cpus)  # before torch counts them
    from tunery.run.run import Run

    run = Run(sys.argv[1])
    run.evaluate(name=NAME, answers=run.config.eval.generate_rows)


if __name__ == "__main__":
    main()
