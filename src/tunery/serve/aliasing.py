"""Aliases that are served: when ``tunery promote`` changes one, the new run takes its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from tunery.errors import TuneryError
from tunery.run import aliases
from tunery.serve.endpoints.models import changed
from tunery.serve.problems import Problem
from tunery.serve.state import Serving

log = logging.getLogger("tunery")
EVERY = 1.0
"""Seconds between two looks at the file."""


async def follow(serving: Serving, names: Collection[str], folder: Path) -> None:
    """Keep looking. What cannot be loaded is said once, and what was served goes on."""
    loop = asyncio.get_running_loop()
    tried: dict[str, Path] = {}
    said = ""
    while names:
        await asyncio.sleep(EVERY)
        try:
            known = await loop.run_in_executor(None, aliases.read, folder)
        except TuneryError as error:
            if str(error) != said:
                said = str(error)
                log.warning("the aliases cannot be read, what is served stays: %s", error)
            continue
        said = ""
        for name in names:
            served, path = serving.worker.models().get(name), known.get(name)
            if served is None or path is None:
                continue
            if _same(path, served.path):
                tried.pop(name, None)
            elif tried.get(name) != path:
                tried[name] = path
                await _swap(serving, name, path)


async def _swap(serving: Serving, name: str, path: Path) -> None:
    try:
        await changed(serving, name, path)
    except (TuneryError, Problem) as error:
        log.warning("%s stays what it was: %s", name, error)
    else:
        log.info("%s is now %s", name, path.name)


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()
