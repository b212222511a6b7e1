"""Finds formats, tasks, methods, metrics and steps of cleaning and augmentation by the names of their files.

Adding one is adding a file to the folder: the registry, the command line, the documentation tables and the
common test-suite all list what is found here.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any, Literal, TypeVar

from tunery.errors import ConfigError, near
from tunery.protocols import Augmenter, Cleaner, Format, Method, Metric, Plugin, Strict, Task

Kind = Literal["format", "task", "method", "metric", "cleaner", "augmenter"]
__all__ = ["Kind", "config_class", "defined", "files", "get", "names", "near"]
T = TypeVar("T")
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
    return files(f"tunery.{kind}s")


@cache
def get(kind: Kind, name: str) -> Any:
    """The class behind a name. Raises ConfigError with the nearest name if there is none."""
    if name not in names(kind):
        raise ConfigError(f"unknown {kind} {name!r}", near(name, names(kind)), f"{kind}.name")
    return defined(f"tunery.{kind}s.{name}", _BASES[kind])


def files(package: str) -> list[str]:
    """Names of a package's modules, sorted, less those that begin with _."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def defined(path: str, base: type[T]) -> type[T]:
    """The one class of a kind that a module defines, which gets the module's name as its own."""
    module = importlib.import_module(path)
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, base) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one {base.__name__}, found {len(found)}")
    found[0].name = path.rpartition(".")[2]  # type: ignore[attr-defined]
    return found[0]


def config_class(kind: Kind, name: str) -> type[Strict]:
    """The configuration class of a task, a method or a step; loads no torch."""
    return get(kind, name).Config  # type: ignore[no-any-return]
