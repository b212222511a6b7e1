"""A training in a process of its own: watched, paused and gone on with, failing or killed alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from small import digests, labelled, log, write
from tunery import config
from tunery.config import Config
from tunery.decide import trial
from tunery.decide.trial import Evaluation
from tunery.run.run import Run


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
