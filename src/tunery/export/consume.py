"""Let a consumer answer probe rows in a process of its own: whatever happens to it, tunery goes on.

``job.json`` has, beside what the consumer needs to load the export (``Kind.job``)::

    consumer         name of its file in consumers/
    folder           the export
    threads          that it may use
    asks             questions as people ask them, for its tokenizer: {"chat": messages}, {"texts": [text, pair?],
                     "longest": n} or {"words": [...]}
    rows             {"inputs": {"input_ids": [...], …}, "positions": [...] or null}: token ids as in training
    prompts          token ids to answer, none for a task that writes no text
    max_new_tokens, stop_ids
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunery.errors import GateError
from tunery.export import consumers
from tunery.rundir import read_json, write_json

TIMEOUT = 3600
"""Seconds after which a consumer that says nothing is given up."""


def run(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """→ ``tokens``, ``answers`` and ``versions``; the logits of row n are in ``folder/000n.npy``.

    Raises GateError in one line if the consumer dies, cannot load the export or does not end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", job)
    script = Path(str(consumers.__file__)).with_name("_run.py")
    # -P: the folder of the script, with its transformers.py, is not searched for modules
    command = [sys.executable, "-P", "-W", "ignore", str(script), str(folder)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    env["OMP_NUM_THREADS"] = str(job["threads"])
    with (folder / "stderr.txt").open("wb") as errors:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=env, timeout=TIMEOUT
            )
        except subprocess.TimeoutExpired:
            raise _failed(job, f"it did not end within {TIMEOUT} s") from None
    if done.returncode:
        raise _failed(job, _reason(done.returncode, folder / "stderr.txt"))
    found: dict[str, Any] = read_json(folder / "found.json")
    return found


def _failed(job: Mapping[str, Any], reason: str) -> GateError:
    name = str(job["consumer"]).replace("_", "-")
    return GateError(f"nothing was published: {name} cannot use the export: {reason}", "see docs/export.md", name)


def _reason(code: int, errors: Path) -> str:
    """The signal that ended it, or the last thing it said."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"it was killed by {name} ({signal.strsignal(-code)})"
    said = [line.strip() for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return said[-1][:300] if said else f"it ended with code {code}"
