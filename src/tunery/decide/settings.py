"""Points of a search space as configurations: checked before anything trains, and told apart by what they do."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from tunery import config as configuration
from tunery import registry
from tunery.config.problems import PLUGINS, Problem, together
from tunery.decide.space import Choice, Settings, Space
from tunery.errors import ConfigError

Plain = Mapping[str, Any]
"""A whole configuration as plain values, fine by itself."""
ROWS = ("max_length", "clean", "augment", "on_long")
"""Keys of data that leave the validation rows the same; trials scored on different rows could not be compared."""


def check(space: Space, base: Plain) -> None:
    """Try every value on the configuration: unknown keys, wrong types, values out of bounds.

    Raises ConfigError that names all problems.
    """
    problems: list[Problem] = []
    for key, item in space.items():
        if refusal := _refusal(key, base):
            problems.append(Problem(key, *refusal))
            continue
        for value in item.samples:
            errors = [_wrong(base, {**plugin, key: value}) for plugin in _plugins(space, key)]
            if all(errors):  # a key that only some of the methods to try have is fine
                first = next(error for error in errors if error)
                problems.append(Problem(first.where or key, first.problem, first.hint))
                break
    if problems:
        raise together(problems)


def _refusal(key: str, base: Plain) -> tuple[str, str] | None:
    section, _, rest = key.partition(".")
    if key == "task.name":
        return "cannot be searched: scores of different tasks cannot be compared", "search once for each task"
    if key == "train.seed":
        return "the luckiest of several seeds is no better setting", "tunery compare runs of several seeds"
    if section in ("run", "eval", "schema_version") or (section == "data" and rest not in ROWS):
        known = configuration.SECTIONS.get(section)
        if known is None or rest in known.model_fields:
            return "cannot be searched: trials are compared on the same rows, scored the same way", "leave it out"
    if key == "train.epochs" and (base.get("train") or {}).get("max_steps") is not None:
        return "has no effect while train.max_steps is set", "search train.max_steps, or set it to null"
    return None


def _plugins(space: Space, key: str) -> list[Settings]:
    """The methods (or tasks) that a key of theirs may come together with."""
    section = key.partition(".")[0]
    named = space.get(f"{section}.name")
    if section not in PLUGINS or key == f"{section}.name" or not isinstance(named, Choice):
        return [{}]
    return [{f"{section}.name": value} for value in named.values]


def _wrong(base: Plain, settings: Settings) -> ConfigError | None:
    try:
        configuration.build(configuration.put(copy.deepcopy(dict(base)), settings))
    except ConfigError as error:
        return error
    return None


def configured(base: Plain, settings: Settings) -> configuration.Config:
    """The configuration of a trial. Raises ConfigError: values that are fine alone and not together."""
    return configuration.build(configuration.put(copy.deepcopy(dict(base)), effective(base, settings)))


def effective(base: Plain, settings: Settings) -> Settings:
    """Without the keys that the trial's own method or task does not have."""
    found = {}
    for key, value in settings.items():
        section, _, rest = key.partition(".")
        name = settings.get(f"{section}.name", (base.get(section) or {}).get("name"))
        if section in PLUGINS and rest.partition(".")[0] not in _fields(section, name):
            continue
        found[key] = value
    return found


def _fields(kind: Any, name: Any) -> set[str]:
    return {"name"} if name is None else {"name", *registry.config_class(kind, str(name)).model_fields}


def identity(base: Plain, settings: Settings) -> str:
    """The same text for settings that make the same training."""
    return json.dumps(effective(base, settings), sort_keys=True, default=str)
