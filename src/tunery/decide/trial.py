"""One training in a process of its own, watched from here.

A trial that fails, runs out of memory or is killed ends alone; peak memory is its own; and it can be stopped at any
evaluation and gone on with later, exactly, because its run directory has a checkpoint.

    outcome = start(config, watch=lambda evaluation: evaluation.metrics["accuracy"] < 0.6, log=folder / "1.log")
    if outcome.status == "paused":
        outcome = go_on(outcome.run, log=folder / "1.log")

Several trials at once: call from several threads, with ``cpus`` shared out among them.

The two processes talk in lines of JSON: the job on the trial's stdin, then an answer to each evaluation; on its stdout
evaluations and, last, how it ended. Its log goes to stderr, which is the file ``log``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tunery.config import Config
from tunery.errors import Interrupted, ModelError, Paused, TuneryError
from tunery.rundir import RunDir
from tunery.train.progress import Evaluation

SILENT = "the trial's process ended without a word"
"""Begins the problem of a trial that was killed."""
GRACE = 60.0
"""Seconds that a trial gets to write its checkpoint after it was told to stop, before it is killed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended.

    ``paused``: ``watch`` asked for it; ``interrupted``: by a signal or its time limit; both can be gone on with if
    there is a ``run``. ``failed``: ``problem`` is the trial's one line. ``run`` is None if it never came to be.
    """

    status: Literal["completed", "paused", "interrupted", "failed"]
    run: Path | None
    problem: str = ""

    @property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest; empty without a run."""
        file = self.run / "manifest.json" if self.run else None
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file and file.is_file() else {}


Watch = Callable[[Evaluation], bool]
"""True: pause the trial here. At the last evaluation the answer is of no effect."""


def start(
    config: Config,
    *,
    watch: Watch | None = None,
    cpus: Sequence[int] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Train ``config`` as a new run (in ``config.run.dir``; name it, so that you find it if you are killed).

    Args:
        cpus: numbers of the CPUs it may use; default: those of this process.
        log: its messages are added to this file; default: they are thrown away.
        timeout: seconds of wall time after which it is interrupted, with a checkpoint.
    """
    path = Path(config.run.dir) / config.run.name if config.run.name else None
    return _run({"config": config.dump()}, path, watch, cpus, log, timeout)


def latest(run: Path) -> Path:
    """The newest attempt at a training: one that failed stays, and the next has ``-2`` behind its name."""
    again = [p for p in run.parent.glob(f"{run.name}-*") if p.name[len(run.name) + 1 :].isdigit()]
    return max(again, key=lambda path: int(path.name.rpartition("-")[2]), default=run)


def standing(run: Path, timeout: float = GRACE) -> str | None:
    """The status of a training by that name, once no process works on it any more: one may outlive who began it. None
    if there is none; a directory that never got its manifest is removed.

    Raises ModelError if it is still at work when the time is over.
    """
    found = RunDir(run)
    until = time.monotonic() + timeout
    while run.is_dir():
        try:
            with found.lock():
                if found.manifest_file.is_file():
                    return str(found.manifest()["status"])
                shutil.rmtree(run)
        except ModelError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    return None


def go_on(
    run: Path,
    *,
    watch: Watch | None = None,
    cpus: Sequence[int] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Go on with a trial that was paused, interrupted or killed. Arguments as for ``start``."""
    return _run({"resume": str(run)}, run, watch, cpus, log, timeout)


def _run(
    job: dict[str, Any],
    path: Path | None,
    watch: Watch | None,
    cpus: Sequence[int] | None,
    log: Path | None,
    timeout: float | None,
) -> Outcome:
    command = [sys.executable, "-m", "tunery.decide.trial"]
    with contextlib.ExitStack() as stack:
        errors: IO[str] | int = stack.enter_context(log.open("a", encoding="utf-8")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )
        stack.enter_context(_limited(process, timeout))
        try:
            return _talk(process, {**job, "cpus": list(cpus) if cpus else None, "parent": os.getpid()}, path, watch)
        except BaseException:
            _stop(process)
            raise
        finally:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if stream:
                        stream.close()
            process.wait()


def _talk(process: subprocess.Popen[str], job: dict[str, Any], path: Path | None, watch: Watch | None) -> Outcome:
    assert process.stdin and process.stdout
    with contextlib.suppress(BrokenPipeError):
        _send(process.stdin, job)
    for line in process.stdout:
        message = json.loads(line)
        if message["kind"] == "ended":
            return Outcome(message["status"], _made(message["run"], path), message["problem"])
        found = Evaluation(**{**message["evaluation"], "run": Path(message["evaluation"]["run"])})
        path = found.run
        with contextlib.suppress(BrokenPipeError):
            _send(process.stdin, {"pause": bool(watch and watch(found))})
    code = process.wait()
    return Outcome("failed", _made(None, path), f"{SILENT}, code {code}")


def _made(named: str | None, path: Path | None) -> Path | None:
    """The run, if it came to be."""
    found = Path(named) if named else path
    return found if found and (found / "manifest.json").is_file() else None


@contextlib.contextmanager
def _limited(process: subprocess.Popen[str], timeout: float | None) -> Iterator[None]:
    if timeout is None:
        yield
        return
    timers = [threading.Timer(timeout, process.terminate), threading.Timer(timeout + GRACE, process.kill)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _stop(process: subprocess.Popen[str]) -> None:
    """It writes a checkpoint first, if it can."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _send(stream: IO[str], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message, default=str) + "\n")
    stream.flush()


# --------------------------------------------------------------------------------- in the trial's own process


def main() -> None:
    """Do the job on stdin."""
    talking = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    job = json.loads(sys.stdin.readline())
    if job["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])  # before torch counts them
    _end_with(job["parent"])
    run: str | None = job.get("resume") or None
    status, problem = "completed", ""
    try:
        run = _train(job, talking)
    except Paused as error:
        status, run = "paused", error.where
    except (Interrupted, KeyboardInterrupt) as error:
        status, run = "interrupted", getattr(error, "where", "") or run
    except Exception as error:
        import traceback

        status, problem = "failed", str(error) or type(error).__name__
        if not isinstance(error, TuneryError):
            traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        _send(talking, {"kind": "ended", "status": status, "run": run, "problem": problem})


def _end_with(parent: int) -> None:
    """When the parent is killed, stop as at SIGTERM, with a checkpoint, at the next step rather than evaluation."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))
    if os.getppid() != parent:  # it was faster
        raise SystemExit


def _train(job: dict[str, Any], talking: IO[str]) -> str:
    import logging

    from tunery import config
    from tunery.run.train import resume, train

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    def pause(found: Evaluation) -> bool:
        with contextlib.suppress(BrokenPipeError):
            _send(talking, {"kind": "evaluated", "evaluation": asdict(found)})
        answer = sys.stdin.readline()
        return not answer or json.loads(answer)["pause"]  # nobody is there any more: stop, and keep the checkpoint

    if job.get("resume"):
        return str(resume(job["resume"], pause).path)
    return str(train(config.build(job["config"]), pause).path)


if __name__ == "__main__":
    main()
