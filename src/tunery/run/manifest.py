"""What a new run records of itself: its name, its resolved configuration, where it came from."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch

from tunery.config import Config
from tunery.data import inputs
from tunery.data.general import BUILT_IN
from tunery.models.load import origin
from tunery.models.packs import PACKS
from tunery.run import processes
from tunery.run.encode import probe
from tunery.run.prepare import Prepared
from tunery.rundir import RunDir, timestamp, write_json

VERSIONS = ("tunery", "torch", "transformers", "peft", "accelerate", "numpy")


def run_name(config: Config) -> str:
    """Date, model, task, method, and a hash of the whole configuration."""
    digest = hashlib.sha256(json.dumps(config.dump(), sort_keys=True).encode()).hexdigest()[:6]
    model = Path(config.model.name).stem.lower().replace(":", "-")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folds = f"{config.data.folds}-folds" if config.data.folds and not config.data.fold else None
    parts = (stamp, model, config.task_name, config.method_name, folds, digest)
    return "-".join(part for part in parts if part)


def record(run: RunDir, prepared: Prepared) -> None:
    if not processes.first():
        return
    config, base = prepared.config, prepared.base
    run.write_config(absolute(config))
    write_json(run.ledger_file, prepared.dataset.ledger.to_json())
    first = prepared.splits["train"].examples[0]
    run.update_manifest(
        status="running",
        started=timestamp(),
        argv=sys.argv,
        versions={name: version(name) for name in VERSIONS},
        python=platform.python_version(),
        commit=_commit(),
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        seed=config.train.seed,
        base={"name": base.name, "folder": str(base.folder), "hash": base.hash(), **origin(base.name)},
        data={inputs.absolute(file): digest for file, digest in prepared.dataset.hashes.items()},
        rows={name: len(split.sources) for name, split in prepared.splits.items()},
        parent=_parent(prepared),
        class_weights=dict(prepared.task.class_weights) or None,
        augmented=prepared.splits["train"].copies,
        probe=probe(prepared.task, base.tokenizer, first, config.data.max_length or 512),
    )


def _parent(prepared: Prepared) -> dict[str, object] | None:
    """Where the weights came from that this run began with, and how many of the old rows it trains on again."""
    parent, old = prepared.parent, prepared.old
    if parent is None or old is None:
        return None
    path = str(parent.run.path.absolute())
    return {"path": path, "weights": parent.weights, "replayed": old.replayed, "old_rows": old.available}


def absolute(config: Config) -> Config:
    """Files by absolute path, so that resuming works from any folder."""
    files = {split: inputs.absolute(getattr(config.data, split)) for split in ("train", "validation", "test")}
    data = config.data.model_copy(update=files)
    steps = [s.model_copy(update={"file": inputs.absolute(s.file)}) if hasattr(s, "file") else s for s in data.augment]
    data = data.model_copy(update={"augment": steps})
    name = config.model.name
    local = name not in PACKS and Path(name).exists()  # as models.load.resolve looks for it
    model = config.model.model_copy(update={"name": str(Path(name).absolute()) if local else name})
    run = config.run.model_copy(update={"dir": str(Path(config.run.dir).absolute())})
    text = config.eval.general_text
    if text is not None and text != BUILT_IN:
        evaluation = config.eval.model_copy(update={"general_text": str(Path(text).absolute())})
        config = config.model_copy(update={"eval": evaluation})
    return config.model_copy(update={"data": data, "model": model, "run": run})


def _commit() -> str | None:
    """Commit of the working directory, "+" behind it if there are uncommitted changes."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)  # noqa: S607
        dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5)  # noqa: S607
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
