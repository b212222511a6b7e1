"""Finds formats, tasks, methods, metrics and steps of cleaning and augmentation by the names of their files.

Adding one is adding a file to the folder: the registry, the command line, the documentation tables and the
common test-suite all list what is found here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any, Literal

from tunery.errors import ConfigError, near
from tunery.protocols import Augmenter, Cleaner, Format, Method, Metric, Plugin, Strict, Task

Kind = Literal["format", "task", "method", "metric", "cleaner", "augmenter"]
__all__ = ["Kind", "config_class", "get", "names", "near"]
_BASES: dict[str, type[Plugin]] = {
    "format": Format,
    "task": Task,
    "method": Method,
    "metric": Metric,
    "cleaner": Cleaner,
    "augmenter": Augmenter,
}


@cache
def names(kind: Kind) -> list[str]:
    """All names of a kind, sorted."""
    package = importlib.import_module(f"tunery.{kind}s")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


@cache
def get(kind: Kind, name: str) -> Any:
    """The class behind a name. Raises ConfigError with the nearest name if there is none."""
    if name not in names(kind):
        raise ConfigError(f"unknown {kind} {name!r}", near(name, names(kind)), f"{kind}.name")
    module = importlib.import_module(f"tunery.{kind}s.{name}")
    base = _BASES[kind]
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, found {len(found)}")
    found[0].name = name
    return found[0]


def config_class(kind: Kind, name: str) -> type[Strict]:
    """The configuration class of a task, a method or a step; loads no torch."""
    return get(kind, name).Config  # type: ignore[no-any-return]
