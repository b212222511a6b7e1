"""What the worker and those who ask it know of requests and of what is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tunery.errors import TuneryError
from tunery.generate.batcher import Batcher, Reason, Request
from tunery.generate.sampling import Token
from tunery.run import build
from tunery.run.run import Run
from tunery.run.several import Group, Place


@dataclass(frozen=True, slots=True)
class Finish:
    """Why an answer ended."""

    reason: Reason
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Served:
    """What is known of one name. Reading this from other threads is fine, computing with it is not."""

    name: str
    path: Path
    base: str
    task: str
    method: str
    output: Literal["text", "logits"]
    loaded: float
    """When, in seconds since 1970."""
    tuned: build.Tuned
    run: Run


class QueueFull(TuneryError):
    """As many requests wait as may."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("too many requests are waiting", f"try again in {retry_after} s")
        self.retry_after = retry_after
        """Seconds after which there should be room, from the pace of the last requests."""


class NoSuchModel(TuneryError):
    """Nothing is served under this name."""


class Draining(TuneryError):
    """The worker ends: it finishes what runs and takes nothing new."""


@dataclass(eq=False, slots=True)
class Job:
    """A request with those who wait for it."""

    request: Request
    lane: Lane
    on_token: Callable[[Token], None]
    on_end: Callable[[Finish], None]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Lane:
    """A running batch: of one run, or of all that may share one."""

    group: Group
    batcher: Batcher


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for."""

    served: Served
    lane: Lane | None
    """None where the task writes no text."""
    place: Place | None = None
