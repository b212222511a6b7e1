"""Exports in tests: consumers in this process, as a new one imports torch and transformers for ten seconds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tunery.export import consume, consumers

CONSUMERS = Path(str(consumers.__file__)).parent


def in_process(patch: pytest.MonkeyPatch) -> None:
    """Let consumers work here, through the same files."""
    spec = importlib.util.spec_from_file_location("consumer_run", CONSUMERS / "_run.py")
    assert spec is not None and spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)

    def run(job: dict[str, Any], folder: Path) -> Any:
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps(job))
        worker.main(folder)
        return json.loads((folder / "found.json").read_text())

    patch.setattr(consume, "run", run)
