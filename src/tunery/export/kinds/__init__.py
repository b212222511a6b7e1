"""The kinds of export, one file each: adding one is adding a file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from tunery.errors import ConfigError, near

if TYPE_CHECKING:
    from tunery.export.kind import Kind


@cache
def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


@cache
def get(name: str) -> Kind:
    """Raises ConfigError with the nearest name if there is none."""
    from tunery.export.kind import Kind

    if name not in names():
        raise ConfigError(f"no kind of export is called {name!r}", near(name, names()), "--to")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Kind) and item.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Kind, found {len(found)}")
    found[0].name = name
    return found[0]()
