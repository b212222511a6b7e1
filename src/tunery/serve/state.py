"""What the endpoints share: the worker with its models, the limits, the metrics."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

from fastapi import Request

from tunery.evaluate import Settings
from tunery.run import train as training
from tunery.run.encode import model_limit
from tunery.serve.metrics import Metrics
from tunery.serve.problems import Problem, no_such_model
from tunery.serve.worker import Served, Worker


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request. Seconds, bytes, tokens."""

    body: int = 1 << 20
    depth: int = 32
    """Lists and objects within each other in a body."""
    timeout: float = 300.0
    """From the request to the end of its answer, the time in the queue included."""
    max_tokens: int = 2048
    """Of an answer, and what it may have if the request does not say."""
    read: float = 30.0
    """Until a request has arrived as a whole."""
    write: float = 30.0
    """Until a client that does not read its answer is given up."""
    keep_alive: float = 60.0
    connections: int = 1024
    requests: int = 512
    """That are worked on or wait."""
    chunk: int = 16
    """Texts that are classified or embedded between two steps of the engine."""


@dataclass(slots=True)
class Serving:
    """One server."""

    worker: Worker
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    hosts: frozenset[str] = frozenset()
    any_address: bool = False
    """Whether an IP address will do as Host: names can be pointed here by someone else's DNS, addresses cannot."""
    runs_folder: Path = Path("runs")
    aliases: frozenset[str] = frozenset()
    """Names that follow ``tunery promote``."""
    metrics: Metrics = field(default_factory=Metrics)
    draining: bool = False
    active: int = 0
    """Requests to ``/v1`` that are being answered."""
    answered: int = 0
    prompts: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prompts"))
    """Where conversations become tokens: a long one must not keep the others from being written."""
    _stops: WeakKeyDictionary[Served, tuple[int, ...]] = field(default_factory=WeakKeyDictionary)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def served(self, name: str) -> Served:
        """Raises Problem 404."""
        found = self.worker.models().get(name)
        if found is None:
            raise no_such_model(name)
        return found

    def stop_ids(self, served: Served) -> tuple[int, ...]:
        """Tokens that end an answer. Found once for each model: the task renders its template for it."""
        with self._lock:
            known = self._stops.get(served)
            if known is None:
                known = self._stops[served] = served.tuned.task.stop_ids(served.tuned.tokenizer)
            return known


def of(request: Request) -> Serving:
    return cast(Serving, request.app.state.serving)


def note_model(request: Request, name: str) -> None:
    """For the metrics: which model was asked. Only names that exist, so that nobody can make new series."""
    request.state.model = name


def refuse_output(served: Served, wanted: str, address: str) -> None:
    """Raises Problem 400 if the model's answers are of another kind."""
    if served.output != wanted:
        does = "classifies" if served.output == "logits" else "generates text"
        raise Problem(400, f"{served.name} {does} (task {served.task}); {address}", "model", "wrong_endpoint")


def context(served: Served) -> int:
    """Tokens that the model can read."""
    return model_limit(served.tuned.base)


def settings(served: Served) -> Settings:
    """How the run was evaluated."""
    return training.settings(served.run.config, served.tuned.base, None)
