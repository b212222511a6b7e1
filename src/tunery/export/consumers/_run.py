"""The process of a consumer: ``python -P _run.py FOLDER``. Imports nothing of tunery.

Reads ``FOLDER/job.json`` (see ``tunery.export.consume``) and writes ``0000.npy``, … and, at the end, ``found.json``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    parent = os.getppid()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    consumer = _module(job["consumer"]).load(job)
    found: dict[str, Any] = {"tokens": [consumer.tokens(ask) for ask in job["asks"]]}
    import numpy as np

    for number, row in enumerate(job["rows"]):
        if os.getppid() != parent:
            raise SystemExit("nobody waits for this any more")
        np.save(folder / f"{number:04d}.npy", np.asarray(consumer.logits(row), dtype=np.float32))
    if job["prompts"]:
        found["answers"] = consumer.answers(job["prompts"], job["max_new_tokens"], job["stop_ids"])
    found["versions"] = consumer.versions
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def _module(name: str) -> Any:
    """The file beside this one, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location(f"consumer_{name}", Path(__file__).with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise SystemExit(f"no consumer {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(Path(sys.argv[1]))
