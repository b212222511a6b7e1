"""A candidate is measured in a process of its own, which is killed before it takes the machine down."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from typing import IO, Any, Literal

import torch

from tunery.config import Config
from tunery.models import machine

RESERVE, LEAST = 0.04, 300_000_000
"""Share of the machine's memory, and bytes, that are left to others: below, the candidate is killed."""
PERIOD = 0.1
"""Seconds between two looks at the memory."""


@dataclass(slots=True)
class Outcome:
    """How measuring ended. ``found`` is the message ``measured`` of ``decide.measure``."""

    status: Literal["measured", "refused", "too large", "failed"]
    found: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    refusals: dict[str, str] = field(default_factory=dict)
    """Reasons of methods that do not go with this base, if it came so far."""


def run(config: Config, known: dict[str, Any], limit: int | None = None) -> Outcome:
    """Measure one candidate.

    Args:
        known: what an earlier one has found out of the base.
        limit: bytes that it may take; None: as many as the machine can spare.
    """
    with tempfile.TemporaryDirectory(prefix="tunery-plan-") as folder, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunery.decide.measure"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, encoding="utf-8",
        )  # fmt: skip
        messages: list[dict[str, Any]] = []
        reader = threading.Thread(target=_listen, args=(process.stdout, messages), daemon=True)
        reader.start()
        try:
            _send(process, {"config": config.dump(), "folder": folder, "known": known})
            too_large = _watch(process, limit)
        finally:
            process.kill()
            process.wait()
            reader.join()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    if stream:
                        stream.close()
        errors.seek(0)
        return _outcome(messages, too_large, process.returncode, errors.read().decode("utf-8", "replace"))


def _send(process: subprocess.Popen[str], job: dict[str, Any]) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job, default=str) + "\n")
        process.stdin.flush()


def _listen(stream: IO[str], messages: list[dict[str, Any]]) -> None:
    for line in stream:
        with contextlib.suppress(ValueError):
            messages.append(json.loads(line))


def _watch(process: subprocess.Popen[str], limit: int | None) -> str:
    """Wait for its end → why it had to be killed, if it had to."""
    spare = max(RESERVE * (machine.total_memory() or 0), LEAST)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PERIOD)
            return ""
        used, left = machine.resident_memory(process.pid), machine.available_memory(torch.device("cpu"))
        if limit is not None and used is not None and used > limit:
            process.kill()
            return f"it took more than the {limit / 1e9:.2f} GB it may"
        if left is not None and left < spare:
            process.kill()
            return f"at {(used or 0) / 1e9:.2f} GB it left the machine {left / 1e9:.2f} GB"


def _outcome(messages: list[dict[str, Any]], too_large: str, code: int, log: str) -> Outcome:
    refusals: dict[str, str] = next((m["refusals"] for m in messages if m.get("kind") == "refusals"), {})
    if too_large:
        return Outcome("too large", problem=too_large, refusals=refusals)
    last = messages[-1] if messages else {}
    if last.get("kind") == "measured":
        return Outcome("measured", last, refusals=refusals)
    if last.get("kind") in ("refused", "failed"):
        hint = f"; {last['hint']}" if last["hint"] else ""
        memory = any(words in last["problem"] for words in ("out of memory", "can't allocate memory", "MemoryError"))
        return Outcome("too large" if memory else last["kind"], problem=last["problem"] + hint, refusals=refusals)
    if code == -9:  # not by us: the system was out of memory
        return Outcome("too large", problem="it was killed by the system", refusals=refusals)
    lines = [line for line in log.strip().splitlines() if line.strip()]
    said = f": {lines[-1]}" if lines else ""
    return Outcome("failed", problem=f"its process ended with code {code}{said}", refusals=refusals)
