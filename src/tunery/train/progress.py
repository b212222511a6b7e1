"""What a person sees while training runs, and how they stop it."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from tunery.errors import Interrupted

log = logging.getLogger("tunery")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation in the middle of training found, for those who watch it."""

    run: Path
    step: int
    total_steps: int
    seconds: float
    """Spent on training steps so far."""
    metrics: dict[str, float]


class Progress:
    """A bar on stderr: loss, tokens a second, time left; one line an evaluation. Where stderr is not a terminal
    there is no bar but a line every tenth of the way.
    """

    def __init__(self, total: int, start: int = 0) -> None:
        self._person = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, disable=not self._person)
        self._total = total
        self._shown = 0.0
        self._loss: float | None = None

    def step(self, number: int, record: Mapping[str, float]) -> None:
        self._loss = record["loss"] if self._loss is None else 0.9 * self._loss + 0.1 * record["loss"]
        text = f"loss {self._loss:.4f}, {record['tokens_per_second']:.0f} tokens/s"
        if self._person:
            self._bar.update(number - self._bar.n)
            if time.monotonic() - self._shown > 0.5:
                self._shown = time.monotonic()
                self._bar.set_postfix_str(text)
        elif number * 10 // self._total > (number - 1) * 10 // self._total:
            log.info("step %d of %d: %s", number, self._total, text)

    def evaluated(self, number: int, metrics: Mapping[str, float]) -> None:
        text = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._bar.clear()
        log.info("step %d: validation %s", number, text)

    def close(self) -> None:
        self._bar.close()


class StopRequest:
    """Set by Ctrl-C or SIGTERM; the loop looks at it after each step. A second one of the same kind kills as usual."""

    def __init__(self) -> None:
        self.requested: int | None = None

    def leave(self, run: Path) -> None:
        name = signal.Signals(self.requested).name if self.requested else "a request"
        raise Interrupted(f"stopped by {name}; a checkpoint was written", f"tunery resume {run}", str(run))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM while the block runs (in the main thread; elsewhere nothing is caught)."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.requested = number
        # of this signal alone: Ctrl-C reaches a parent too, whose SIGTERM may follow before the checkpoint is written
        signal.signal(number, previous[number])
        print("\nstopping after this step (press again to stop at once)", file=sys.stderr)

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:
        previous = {}  # not the main thread
    try:
        yield request
    finally:
        for each, old in previous.items():
            signal.signal(each, old)
