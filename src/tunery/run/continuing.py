"""``tunery train --continue RUN``: a new run that begins with the weights of a finished one.

Base, task (with its template and labels) and method are the parent's: the weights fit nothing else. The optimizer
begins anew. What becomes of old knowledge is measured on the old validation rows, before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tunery import config as configuration
from tunery.config import Config
from tunery.errors import ConfigError, DataError, ModelError
from tunery.models.load import Base
from tunery.protocols import Task
from tunery.run import aliases, build
from tunery.run.dataset import Dataset
from tunery.rundir import RunDir, read_json

_OWN = {"data": ("train", "validation", "test", "folds", "fold", "take"), "train": ("max_steps", "continue_from")}
"""Keys that a continued run does not take over."""
_SAME = ("task", "method")
_LEAVE = "a continued run has the base, task and method of its parent: leave it out"


@dataclass(frozen=True, slots=True)
class Parent:
    """The finished run that a run goes on from."""

    run: RunDir
    config: Config
    task: dict[str, Any]
    """``task.json``."""
    weights: str
    """SHA-256 over what its method saved."""
    base: str
    """Hash of the base that it was trained on."""


def settings(run: str | Path) -> dict[str, Any]:
    """The plain values of a configuration that goes on from ``run``, but for the data. Raises ModelError."""
    found = _finished(run)
    values = found.config().dump()
    kept: dict[str, Any] = {
        section: {key: value for key, value in content.items() if key not in _OWN.get(section, ())}
        for section, content in values.items()
        if isinstance(content, dict) and section != "run"
    }
    kept["train"]["continue_from"] = str(found.path.absolute())
    return {**kept, "run": {"report": values["run"]["report"]}}


def configured(run: str | Path, given: Mapping[str, Any], overrides: list[str]) -> Config:
    """The parent's configuration with other values on top. Raises ConfigError, ModelError."""
    values = configuration.put(settings(run), given)
    return configuration.build(configuration.override(values, overrides))


def parent_of(config: Config) -> Parent | None:
    """Raises ModelError: not a finished run. Raises ConfigError: another task or method than the parent's."""
    if config.train.continue_from is None:
        return None
    run = _finished(config.train.continue_from)
    theirs = run.config()
    mine, parents = config.dump(), theirs.dump()
    for section in _SAME:
        own, old = mine[section] or {}, parents[section] or {}
        for key in sorted(own.keys() | old.keys(), key=lambda key: (key != "name", key)) if own else ():
            if own.get(key) != old.get(key):
                problem = f"is {own.get(key)!r}, and {old.get(key)!r} in {run.path.name}"
                raise ConfigError(problem, _LEAVE, f"{section}.{key}")
    if mine["model"]["quantise"] != parents["model"]["quantise"]:
        raise ConfigError(f"is another one than in {run.path.name}", _LEAVE, "model.quantise")
    task = read_json(run.model / build.TASK_FILE)
    return Parent(run, theirs, task, run.weights_hash(), run.manifest()["base"]["hash"])


def _finished(run: str | Path) -> RunDir:
    found = RunDir.open(aliases.resolve(run))
    status = found.manifest().get("status")
    if status != "completed":
        raise ModelError(
            f"only a finished run can be continued, and this one is {status}", f"tunery resume {found.path}", str(run)
        )
    return found


def with_parent(config: Config, parent: Parent) -> Config:
    """The configuration with what a continued run has from its parent: the task, and where the parent is."""
    train = config.train.model_copy(update={"continue_from": str(parent.run.path.absolute())})
    return config.model_copy(update={"train": train, "task": parent.config.task})


def take_over(task: Task, parent: Parent, dataset: Dataset, config: Config) -> None:
    """Labels, scale and template of the parent, in place of ``Task.fit``. Raises DataError for a label that it has not.

    ``train.class_weights`` are those of the rows that are trained on now.
    """
    task.restore(parent.task["state"])
    for name, rows in dataset.splits.items():
        for example in rows if config.data.on_bad_row == "error" else ():
            if problem := task.check(example):
                hint = "the head knows no other labels: train a new run on all rows, or data.on_bad_row=drop"
                raise DataError(f"{problem} of {parent.run.path.name} ({name})", hint, example.where)
    if config.train.class_weights is not None:
        counted = type(task)(task.config)
        known = [example for example in dataset.splits["train"] if not task.check(example)]
        counted.fit(known, config.data.label_names)
        counted.restore(parent.task["state"])
        counted.balance()
        task.class_weights = counted.class_weights


def check_base(base: Base, parent: Parent) -> None:
    """Raises ModelError if the weights are of another base model."""
    if base.hash() != parent.base:
        raise ModelError(
            f"{base.name} is not the model that {parent.run.path.name} was trained on", _LEAVE, "model.name"
        )


def begin(parent: Parent, tuned: build.Tuned, recorded: Mapping[str, Any] | None) -> None:
    """Put the parent's weights into a model that the method has just been attached to.

    ``recorded``: ``parent`` of the manifest, of a run that is resumed. Raises ModelError if the parent has changed.
    """
    if recorded and recorded.get("weights") != parent.weights:
        raise ModelError("the parent's weights have changed since this run began", "train a new run", recorded["path"])
    source = build.load(parent.run)
    carry(tuned, source.model)


def carry(tuned: build.Tuned, source: nn.Module) -> None:
    """Copy what ``source`` has learnt. Both have the same base and method; names may differ as the method says."""
    from tunery.models import weights

    values = tuned.method.carried(tuned.model, source)
    own = dict(source.named_parameters())
    values |= {name: own[name] for name in weights.trainable(tuned.model) if name not in values and name in own}
    missing = [name for name in weights.trainable(tuned.model) if name not in values]
    if missing:
        raise ModelError(
            f"{len(missing)} trained weights are not in the parent, for example {missing[0]!r}",
            "was it made by another version of tunery?",
        )
    weights.load_into(tuned.model, values, Path("parent"))
