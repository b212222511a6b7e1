"""One thread that owns all models: requests, loading and everything else that computes go through it.

Everything of ``Worker`` may be called from any thread. Callbacks run in the worker's thread, between two steps, so they
must be short.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from tunery.errors import ResourceError
from tunery.generate.batcher import Batcher, Event, Request
from tunery.generate.sampling import Sampling, Token
from tunery.models import machine
from tunery.run.run import Run
from tunery.run.several import Place, Several
from tunery.serve.records import Draining, Entry, Finish, Job, Lane, NoSuchModel, QueueFull, Served

__all__ = ["Draining", "Finish", "NoSuchModel", "QueueFull", "Sampling", "Served", "Token", "Worker"]

T = TypeVar("T")
COLUMNS = 256
"""Tokens of prompts that are read between two tokens of running rows."""
RECENT = 64
"""Ends of requests from which their pace is measured."""
CALLS = 0.1
"""Seconds of other work between two steps, about: what is left waits for the next."""
KERNELS = 128
"""For which oneDNN keeps the code: each step of a batch has shapes of its own."""
LONGEST_WAIT = 60
"""Seconds that a client is told to wait, at most."""
log = logging.getLogger(__name__)


class Worker:
    """Serves runs by name: those that may share a batch do, the batches of the others take turns.

    Args:
        runs: name → run directory.
        max_batch: rows of one batch.
        max_queue: requests that wait for room in a batch.
    """

    def __init__(self, runs: Mapping[str, Path], *, max_batch: int = 32, max_queue: int = 256) -> None:
        self.max_batch, self.max_queue = max_batch, max_queue
        self._first = dict(runs)
        self._lock = threading.Condition()
        self._entries: dict[str, Entry] = {}
        self._several = Several()
        self._lanes: WeakValueDictionary[int, Lane] = WeakValueDictionary()
        """By the group they belong to."""
        self._left_over: set[Place] = set()
        """Of runs that are served no more: they leave when their last request has ended."""
        self._new: deque[Job] = deque()
        self._gone: deque[Job] = deque()
        self._work: deque[Callable[[], None]] = deque()
        self._jobs: dict[Request, Job] = {}
        self._left = 0
        """Requests that were submitted and have not ended."""
        self._draining = self._over = False
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._counts = dict.fromkeys(
            ("requests", "refused", "tokens", "prompt_tokens", "steps", "stopped", "cancelled", "errors"), 0
        )
        self._thread = threading.Thread(target=self._serve, name="tunery-worker", daemon=True)
        self._loader = ThreadPoolExecutor(1, "tunery-loader")

    # ------------------------------------------------------------------------------------- any thread

    def start(self) -> None:
        """Load all runs, then serve. Raises ModelError."""
        machine.prepare(KERNELS)
        for name, path in self._first.items():
            self._enter(self._read(name, path))
        self._thread.start()

    def stop(self, drain_seconds: float) -> int:
        """Refuse new work and finish what runs, for so long at most → requests that were cut off."""
        with self._lock:
            self._draining = True
            self._lock.notify_all()
            self._lock.wait_for(lambda: not self._left and not self._work, drain_seconds)
            left = self._left
            self._over = True
            self._lock.notify_all()
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        return left

    def models(self) -> dict[str, Served]:
        with self._lock:
            return {name: entry.served for name, entry in self._entries.items()}

    def submit(
        self,
        name: str,
        prompt: Sequence[int],
        sampling: Sampling,
        stop_ids: Collection[int],
        on_token: Callable[[Token], None],
        on_end: Callable[[Finish], None],
        logprobs: int | None = None,
    ) -> Callable[[], None]:
        """Answer a prompt → a function that cancels it. ``on_end`` is called once, after the last token.

        Raises QueueFull, NoSuchModel, Draining.
        """
        with self._lock:
            entry = self._entry(name)
            if entry.lane is None:
                raise NoSuchModel(f"{name!r} writes no text", "ask /v1/classify or /v1/embeddings")
            if self._waiting() >= self.max_queue:
                self._counts["refused"] += 1
                raise QueueFull(self._retry_after())
            adapter = entry.place.adapter if entry.place else None
            request = Request(list(prompt), sampling, frozenset(stop_ids), logprobs, adapter=adapter)
            job = Job(request, entry.lane, on_token, on_end)
            self._new.append(job)
            self._left += 1
            self._counts["requests"] += 1
            self._counts["prompt_tokens"] += len(prompt)
            self._lock.notify_all()

        def cancel() -> None:
            with self._lock:
                self._gone.append(job)
                self._lock.notify_all()

        return cancel

    def call(self, name: str, work: Callable[[Served], T]) -> Future[T]:
        """Compute something with a run in the worker's thread, between steps. Raises NoSuchModel, Draining."""
        with self._lock:
            served = self._entry(name).served
            return self._post(lambda: work(served))

    def load(self, name: str, path: Path) -> Future[Served]:
        """Serve a run under a name, in place of what has it: requests submitted before end as they began.

        A run that cannot be read changes nothing; the future raises ModelError. Raises Draining.
        """
        with self._lock:
            if self._draining:
                raise Draining("the server is shutting down")
        found: Future[Served] = Future()

        def read() -> None:
            try:
                entry = self._read(name, path)
                with self._lock:
                    entered = self._post(lambda: self._enter(entry))
                found.set_result(entered.result())
            except BaseException as error:
                found.set_exception(error)

        self._loader.submit(read)
        return found

    def unload(self, name: str) -> Future[None]:
        """Serve nothing under this name any more; requests submitted before finish. Raises NoSuchModel, Draining."""
        with self._lock:
            self._entry(name)
            return self._post(lambda: self._leave(name))

    def stats(self) -> dict[str, float]:
        """Totals since the start, and how many requests wait and run now."""
        with self._lock:
            queued = self._waiting()
            totals = {f"{name}_total": float(count) for name, count in self._counts.items()}
            return {"queued": queued, "running": self._left - queued, "models": len(self._entries), **totals}

    # ------------------------------------------------------------------------- any thread, under the lock

    def _entry(self, name: str) -> Entry:
        if self._draining:
            raise Draining("the server is shutting down")
        if name not in self._entries:
            raise NoSuchModel(f"no model {name!r} is served", f"served: {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    def _waiting(self) -> int:
        lanes = {id(job.lane): job.lane for job in list(self._jobs.values())}
        return len(self._new) + sum(len(lane.batcher.waiting) for lane in lanes.values())

    def _retry_after(self) -> int:
        if len(self._ends) < 2:
            return 1
        pace = len(self._ends) / max(time.monotonic() - self._ends[0], 1e-3)
        return min(max(math.ceil(self.max_batch / pace), 1), LONGEST_WAIT)

    def _post(self, work: Callable[[], T]) -> Future[T]:
        if self._over:
            raise Draining("the server is shutting down")
        done: Future[T] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._work.append(run)
        self._lock.notify_all()
        return done

    # ------------------------------------------------------------------------------ loading and leaving

    def _read(self, name: str, path: Path) -> Entry:
        """Load a run, in a thread of its own: nothing that is served is touched. Raises ModelError."""
        run = Run(path)
        place = self._several.load(run)
        tuned = run.tuned
        about = (tuned.base.name, tuned.task.name, tuned.method.name, tuned.task.output)
        served = Served(name, run.path, *about, loaded=time.time(), tuned=tuned, run=run)
        if place is None:
            return Entry(served, None)
        group = place.group
        lane = self._lanes.get(id(group))
        if lane is None:
            free = machine.available_memory(tuned.base.device) or 0
            settings: Any = {"isolate": True, "memory": free // 2 or None}
            batcher = Batcher(group.model, self.max_batch, COLUMNS, group.arrange, **settings)
            lane = self._lanes[id(group)] = Lane(group, batcher)
        return Entry(served, lane, place)

    def _enter(self, entry: Entry) -> Served:
        """Serve a run that was read, in the worker's thread (or before it runs)."""
        if entry.place is not None:
            entry.place.enter()
        with self._lock:
            old = self._entries.get(entry.served.name)
            self._entries[entry.served.name] = entry
        self._forget(old)
        return entry.served

    def _leave(self, name: str) -> None:
        with self._lock:
            old = self._entries.pop(name, None)
        self._forget(old)

    def _forget(self, old: Entry | None) -> None:
        if old is not None and old.place is not None:
            self._left_over.add(old.place)
        if old is not None:
            del old
            self._sweep(force=True)

    def _sweep(self, force: bool = False) -> None:
        """Take adapters out of their batch when the last request for them has ended, and give their memory back."""
        with self._lock:
            in_use = {(job.lane.group, job.request.adapter) for job in [*self._jobs.values(), *self._new]}
        over = {place for place in self._left_over if (place.group, place.adapter) not in in_use}
        for place in over:
            if place.group.lora is not None and place.adapter is not None:
                place.group.lora.remove(place.adapter)
        self._left_over -= over
        if over or force:
            gc.collect()  # a model refers to itself in many places

    # ------------------------------------------------------------------------------- the worker's thread

    def _serve(self) -> None:
        machine.prepare()
        heap = machine.Heap()
        while self._round():
            heap.tend()
        for job in list(self._jobs.values()):
            self._end(job, Finish("error", "the server stopped before the answer was complete"))

    def _round(self) -> bool:
        """Take in what was asked for, then a step of each batch → whether there is to be another round."""
        with self._lock:
            self._lock.wait_for(lambda: self._new or self._gone or self._work or self._jobs or self._over)
            over, gone = self._over, self._gone
            self._gone = deque()
            while self._new:
                job = self._new.popleft()
                self._jobs[job.request] = job
                job.lane.batcher.add(job.request)
        for job in gone:
            if job.lane.batcher.cancel(job.request):
                self._end(job, Finish("cancelled"))
        until = time.monotonic() + (math.inf if over else CALLS)
        while self._work and time.monotonic() < until:
            self._work[0]()
            with self._lock:
                self._work.popleft()
                self._lock.notify_all()
        if over:
            return False
        for lane in {id(job.lane): job.lane for job in self._jobs.values()}.values():
            self._step(lane)
        if self._left_over:
            self._sweep()
        return True

    def _step(self, lane: Lane) -> None:
        try:
            events = lane.batcher.step()
        except Exception as error:  # nothing of a lane may end the thread
            log.exception("a step failed")
            problem = str(ResourceError(f"the model failed: {error}"))
            events = [Event(one, None, "error", problem) for one in lane.batcher.clear()]
        self._counts["steps"] += 1
        for event in events:
            job = self._jobs[event.request]
            if event.token is not None:
                self._counts["tokens"] += 1
                self._tell(job, event.token)
            if event.end is not None:
                self._end(job, Finish(event.end, event.problem))

    def _tell(self, job: Job, token: Token) -> None:
        try:
            job.on_token(token)
        except Exception:  # its reader is gone
            log.exception("a reader failed")
            with self._lock:
                self._gone.append(job)

    def _end(self, job: Job, finish: Finish) -> None:
        with contextlib.suppress(Exception):
            job.on_end(finish)
        with self._lock:
            self._jobs.pop(job.request, None)
            self._left -= 1
            self._ends.append(time.monotonic())
            name: Any = {"cancelled": "cancelled", "error": "errors"}.get(finish.reason, "stopped")
            self._counts[name] += 1
            self._lock.notify_all()
