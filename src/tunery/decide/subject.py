"""What a search is about: the data, the model and the number to look at, prepared once before any trial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery import scoring
from tunery.config import Config
from tunery.data.read import paths
from tunery.errors import ConfigError
from tunery.run.manifest import absolute, run_name
from tunery.run.prepare import prepare


@dataclass(frozen=True, slots=True)
class Subject:
    """What does not change from trial to trial."""

    config: Config
    """With the task that was found out, files by absolute paths, and the test files."""
    monitor: str
    """The number on the validation rows that decides."""
    higher_is_better: bool
    default_lr: float
    rows: int
    """Training rows."""
    layers: int
    family: str
    about: dict[str, Any]
    """Task, method, model (its hash), parameters, rows, data (hash of all files)."""

    @property
    def name(self) -> str:
        return run_name(self.config)

    @property
    def name_without_date(self) -> str:
        model = Path(self.config.model.name).stem.lower().replace(":", "-")
        return f"tunery-{model}-{self.config.task_name}-{self.config.method_name}"

    def digest(self, space: Mapping[str, Any]) -> str:
        """Of all that is the same in every trial, on whatever machine, and of the space."""
        values = self.config.dump()
        fixed = {key: values[key] for key in ("task", "method", "train")}
        fixed["data"] = {k: v for k, v in values["data"].items() if k not in ("train", "validation", "test")}
        text = json.dumps([fixed, self.about, {str(k): repr(v) for k, v in space.items()}], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def describe(config: Config) -> Subject:
    """Everything is checked as ``train`` would, but for the test rows: they are only looked for.

    Raises TuneryError.
    """
    if config.data.folds or config.data.fold:
        raise ConfigError(
            "a search has one validation set", "leave data.folds out, or give data.validation", "data.folds"
        )
    if config.data.test:
        paths(config.data.test)
    prepared = prepare(untested(config))
    task, base = prepared.task, prepared.base
    rows = len(prepared.splits["train"].sources)
    about = {
        "task": task.name,
        "method": config.method_name,
        "model": base.hash(),
        "parameters": base.parameters(),
        "rows": rows,
        "data": hashlib.sha256(" ".join(sorted(prepared.dataset.hashes.values())).encode()).hexdigest()[:16],
    }
    text_config = base.config.get_text_config() if hasattr(base.config, "get_text_config") else base.config
    return Subject(
        absolute(config.model_copy(update={"task": prepared.config.task})),
        task.monitor,
        scoring.number_names()[task.monitor].higher_is_better,
        prepared.method.default_lr(base.parameters(), base.family),
        rows,
        int(getattr(text_config, "num_hidden_layers", 0) or 0),
        base.family,
        about,
    )


def untested(config: Config) -> Config:
    """Without test rows."""
    return config.model_copy(update={"data": config.data.model_copy(update={"test": None})})
