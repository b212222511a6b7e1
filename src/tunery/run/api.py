"""Training from Python: what ``tunery.train`` and ``tunery.cross_validate`` are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery import config as configuration
from tunery.errors import ConfigError
from tunery.run import continuing
from tunery.run import folds as validation
from tunery.run import train as training
from tunery.run.folds import CrossValidation
from tunery.run.run import Run


def train(
    data: str | Path | Sequence[str | Path] | None = None,
    /,
    *,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    continue_from: Run | str | Path | None = None,
    **settings: Any,
) -> Run:
    """Train and return the finished run.

    Args:
        data: training file or files; or by name, ``data={"train": FILE, "test": FILE}``.
        config: a YAML file to start from.
        overrides: ``"section.key=value"``, as on the command line.
        settings: sections or names: ``model="minilm"``, ``task="classify"``, ``method="lora"``,
            ``train={"lr": 1e-4}``.
        continue_from: a finished run to go on from with these data; its configuration takes the place of ``config``.
    """
    found = _configured(data, config, overrides, settings, continue_from)
    if found.data.folds and not found.data.fold:
        raise ConfigError("these are several runs", "call tunery.cross_validate", "data.folds")
    return Run(training.train(found).path)


def cross_validate(
    data: str | Path | Sequence[str | Path] | None = None,
    /,
    *,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    folds: int = 5,
    **settings: Any,
) -> CrossValidation:
    """Train a run for each fold of the training rows, tested on that fold. Arguments as for ``train``."""
    return validation.cross_validate(_configured(data, config, [*overrides, f"data.folds={folds}"], settings))


def _configured(
    data: str | Path | Sequence[str | Path] | None,
    config: str | Path | None,
    overrides: Iterable[str],
    settings: Mapping[str, Any],
    continue_from: Run | str | Path | None = None,
) -> configuration.Config:
    values = dict(settings)
    if not isinstance(values.get("data", {}), Mapping):
        data = values.pop("data")
    if data is not None:
        files = str(data) if isinstance(data, str | Path) else [str(f) for f in data]
        values["data"] = {**values.get("data", {}), "train": files}
    if continue_from is None:
        return configuration.load(config, list(overrides), values)
    if config is not None:
        raise ConfigError("a continued run has the configuration of its parent", "leave config out", "config")
    parent = continue_from.path if isinstance(continue_from, Run) else continue_from
    return continuing.configured(parent, values, list(overrides))
