"""The sides of a comparison: runs that are trainings of one method, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunery.decide.answers import Answers
from tunery.errors import ConfigError
from tunery.rundir import RunDir

IGNORED = ("run", "train.seed", "train.trackers", "schema_version")
"""Keys in which trainings of one method may differ."""


@dataclass(slots=True)
class Side:
    """A method: one run, or several with different seeds."""

    name: str
    answers: list[Answers]
    settings: dict[str, Any]
    seeds: list[int]
    scores: list[list[float]] = field(default_factory=list)
    """For each run, what each row is judged by (rows that say nothing are left out)."""


def check_paths(paths: Sequence[str], groups: Mapping[str, Sequence[str]], runs: bool) -> None:
    """Raises ConfigError unless there are two sides, and no run is on both."""
    if runs and groups:
        raise ConfigError("runs and groups of runs at once", "put every run into a group, or none", "--group")
    if len(paths) < 2 or len(groups) == 1:
        raise ConfigError("a comparison needs two runs at least", "name another run", "RUN")
    known: dict[Path, str] = {}
    for path in paths:
        if known.setdefault(Path(path).resolve(), path) != path or paths.count(path) > 1:
            raise ConfigError("the same run twice", "name every run once", path)


def _settings(path: str) -> dict[str, Any]:
    """Every key of a run's configuration, less those in ``IGNORED``."""
    flat: dict[str, Any] = {}
    for section, values in RunDir.open(path).config().dump().items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    return {key: value for key, value in flat.items() if key not in IGNORED and key.split(".")[0] not in IGNORED}


def _new_side(name: str, members: Sequence[Answers]) -> Side:
    seeds = [int(RunDir.open(one.path).manifest().get("seed", 0)) for one in members]
    return Side(name, list(members), _settings(members[0].path), seeds)


def named(groups: Mapping[str, Sequence[str]], found: Mapping[str, Answers]) -> list[Side]:
    return [_new_side(name, [found[path] for path in members]) for name, members in groups.items()]


def grouped(found: Mapping[str, Answers]) -> tuple[list[Side], bool]:
    """→ sides, and whether all of them are one method: then each run is a side."""
    groups: dict[str, list[Answers]] = {}
    for path, one in found.items():
        manifest = RunDir.open(path).manifest()
        trained_on = [manifest.get("base", {}).get("hash"), sorted(manifest.get("data", {}).values())]
        groups.setdefault(json.dumps([_settings(path), trained_on], sort_keys=True, default=str), []).append(one)
    alike = len(groups) == 1
    parts = [[one] for one in found.values()] if alike else list(groups.values())
    sides = [_new_side(Path(members[0].path).name, members) for members in parts]
    for side, name in zip(sides, _short_names(sides), strict=True):
        side.name = name
    return sides, alike


def _short_names(sides: Sequence[Side]) -> list[str]:
    """The method, or the one key in which they differ, if that tells them apart; else the folder."""
    folders = [side.name for side in sides]
    keys = differing(sides)
    if "method.name" in keys:
        keys = ["method.name"]
    if len(keys) == 1:
        prefix = "" if keys[0].endswith(".name") else f"{keys[0].partition('.')[2]}="
        short = [f"{prefix}{side.settings.get(keys[0])}" for side in sides]
        if len(set(short)) == len(short) and max(map(len, short)) <= 30:
            return short
    return folders if len(set(folders)) == len(folders) else [side.answers[0].path for side in sides]


def differing(sides: Sequence[Side]) -> list[str]:
    """Keys of the configuration that are not the same on all sides."""
    keys = dict.fromkeys(key for side in sides for key in side.settings)
    return [key for key in keys if len({repr(side.settings.get(key)) for side in sides}) > 1]
