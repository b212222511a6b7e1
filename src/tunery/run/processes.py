"""Training in several processes (torchrun, accelerate launch): all compute, the first one writes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunery.config import Config
from tunery.rundir import RunDir


class Watched(RunDir):
    """The run directory as the other processes see it: they read it and leave the writing to the first."""

    def write_config(self, config: Config) -> None: ...

    def update_manifest(self, **changes: Any) -> None: ...

    def log_metrics(self, record: Any) -> None: ...

    def truncate_metrics(self, step: int) -> None: ...

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield


def several() -> bool:
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def first() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK") or 0) == 0


def shared(cpu: bool, create: Callable[[], RunDir]) -> RunDir:
    """The directory that the first process creates; the others get it to read."""
    if not several():
        return create()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=cpu)
    run = create() if first() else None
    (path,) = broadcast_object_list([str(run.path) if run else None])
    return run or Watched(Path(path))


def wait() -> None:
    """Until every process is here."""
    if several():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
