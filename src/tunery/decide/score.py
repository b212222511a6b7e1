"""Score a run's test rows in a process of its own: ``python -m tunery.decide.score RUN`` with CPUs on stdin."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
