"""A training in a process of its own: watched, paused and gone on with, failing or killed alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from small import digests, labelled, log, write
from tunery import config
from tunery.config import Config
from tunery.decide import trial
from tunery.decide.trial import Evaluation
from tunery.errors import ModelError
from tunery.run.run import Run
from tunery.rundir import RunDir
from tunery.train.progress import stop_on_signals


@pytest.fixture
def settings(tiny_bert: Path, tmp_path: Path) -> Config:
    data = write(tmp_path / "rows.jsonl", labelled(30))
    keys = ["train.max_steps=6", "eval.every=2", "train.patience=null", "train.dropout=0.1", "run.report=false"]
    keys.append(f"run.dir={tmp_path}")
    return config.load(None, [f"data.train={data}", f"model={tiny_bert}", "task=classify", "method=full", *keys])


def named(settings: Config, name: str, **train: object) -> Config:
    values = settings.dump()
    values["run"]["name"] = name
    values["train"] |= train
    return config.build(values)


def test_paused_twice_it_ends_as_if_never_paused(settings: Config, tmp_path: Path) -> None:
    seen: list[Evaluation] = []

    def watch(found: Evaluation) -> bool:
        seen.append(found)
        return True

    one = [min(os.sched_getaffinity(0))]  # more threads add up in another order
    whole = trial.start(named(settings, "whole"), cpus=one)
    assert (whole.status, whole.run) == ("completed", tmp_path / "whole")
    outcome = trial.start(named(settings, "parts"), watch=watch, cpus=one, log=tmp_path / "parts.log")
    assert (outcome.status, outcome.manifest["status"], outcome.run) == ("paused", "paused", tmp_path / "parts")
    again = trial.go_on(tmp_path / "parts", watch=watch, cpus=one, log=tmp_path / "parts.log")
    assert again.status == "paused"
    assert trial.go_on(tmp_path / "parts", watch=watch, cpus=one).status == "completed"
    assert [(found.step, found.total_steps) for found in seen] == [(2, 6), (4, 6), (6, 6)]
    logged = [record["validation"] for record in log(Run(tmp_path / "parts")) if "validation" in record]
    assert [found.metrics for found in seen] == logged
    assert digests(tmp_path / "parts" / "model") == digests(tmp_path / "whole" / "model")
    assert "step 2: validation" in (tmp_path / "parts.log").read_text(encoding="utf-8")


def test_a_trial_that_fails_says_why(settings: Config, tmp_path: Path) -> None:
    values = settings.dump()
    values["data"]["train"] = str(tmp_path / "none.jsonl")
    outcome = trial.start(config.build(values))
    assert (outcome.status, outcome.run, outcome.manifest) == ("failed", None, {})
    assert "none.jsonl" in outcome.problem


def test_a_killed_trial_is_a_failed_one_that_can_go_on(settings: Config, tmp_path: Path) -> None:
    def kill(found: Evaluation) -> bool:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_text()
            if "tunery.decide.trial" in command:
                os.kill(int(child), signal.SIGKILL)
        return False

    outcome = trial.start(named(settings, "killed"), watch=kill)
    assert outcome.status == "failed"
    assert "code -9" in outcome.problem
    assert outcome.run == tmp_path / "killed"
    assert trial.go_on(tmp_path / "killed").status == "completed"


def test_a_time_limit_leaves_a_checkpoint(settings: Config, tmp_path: Path) -> None:
    long = named(settings, "long", max_steps=100_000)
    outcome = trial.start(long, timeout=15, log=tmp_path / "long.log")
    assert outcome.status == "interrupted", (outcome, (tmp_path / "long.log").read_text())
    assert outcome.run == tmp_path / "long"
    assert outcome.manifest["status"] == "interrupted"
    steps = [json.loads(file.read_text())["step"] for file in outcome.run.glob("checkpoints/step-*/state.json")]
    assert steps


# ------------------------------------------------------------------------------------------ what is there already

HOLD = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, 2); print(flush=True); sys.stdin.read()"


@contextmanager
def held(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process works on that run until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(run.path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline()
        yield process


def test_the_standing_of_a_training_is_its_status_and_what_never_got_a_manifest_is_removed(tmp_path: Path) -> None:
    assert trial.standing(tmp_path / "none") is None
    for status in ("completed", "paused", "failed"):
        run = RunDir.create(tmp_path, status)
        run.update_manifest(status=status)
        assert trial.standing(run.path) == status
    begun = RunDir.create(tmp_path, "begun")
    begun.checkpoints.mkdir()
    assert trial.standing(begun.path) is None
    assert not begun.path.exists()


def test_a_training_that_another_process_works_on_is_waited_for(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    run.update_manifest(status="running")
    with held(run) as other:
        with pytest.raises(ModelError, match="another process"):
            trial.standing(run.path, 0.3)
        assert other.stdin
        threading.Timer(0.5, other.stdin.close).start()
        began = time.monotonic()
        assert trial.standing(run.path, 20) == "running"
        assert time.monotonic() - began > 0.3
    bare = RunDir.create(tmp_path, "bare")
    with held(bare), pytest.raises(ModelError, match="another process"):
        trial.standing(bare.path, 0.3)
    assert bare.path.is_dir(), "it may yet get its manifest"


# -------------------------------------------------------------------------------------------------------- signals


def test_only_a_second_signal_of_the_same_kind_kills() -> None:
    """Ctrl-C reaches a parent too, whose SIGTERM may follow before the checkpoint is written."""
    killed: list[int] = []

    def kill(number: int, _frame: FrameType | None) -> None:
        killed.append(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, kill)
    try:
        with stop_on_signals() as request:
            signal.raise_signal(signal.SIGINT)
            assert request.requested == signal.SIGINT
            signal.raise_signal(signal.SIGTERM)
            assert (request.requested, killed) == (signal.SIGTERM, [])
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            assert killed == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is kill
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
