"""The kinds of export, one file each: adding one is adding a file."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from tunery import registry
from tunery.errors import ConfigError, near

if TYPE_CHECKING:
    from tunery.export.kind import Kind


@cache
def names() -> list[str]:
    return registry.files(__name__)


@cache
def get(name: str) -> Kind:
    """Raises ConfigError with the nearest name if there is none."""
    from tunery.export.kind import Kind

    if name not in names():
        raise ConfigError(f"no kind of export is called {name!r}", near(name, names()), "--to")
    return registry.defined(f"{__name__}.{name}", Kind)()
