"""Checkpoints: all that continuing exactly needs, in safetensors and JSON.

``checkpoints/step-000100/`` has masters and moments (``optimizer.safetensors``), the state of the random
generators, what the method keeps beside its parameters, and the position (``state.json``). Its manifest with
the files' SHA-256 is written last; a folder without a fitting manifest does not count. The folder
``best-000100/`` has the best weights so far.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunery import rundir
from tunery.errors import ModelError
from tunery.models import weights

KEEP = 2
"""Newest checkpoints that are kept: if the last one is damaged, the one before it serves."""


def random_state() -> dict[str, Tensor]:
    """Torch's generators of this process; nothing else in training draws from a global one."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda:{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    return state


def of_processes(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One mapping of the states of all processes; the first one's keep their names."""
    return {f"{rank}/{name}" if rank else name: t for rank, state in enumerate(states) for name, t in state.items()}


def set_random_state(states: Mapping[str, Tensor], rank: int = 0) -> None:
    """Of process ``rank``; the first one's where there were fewer processes."""
    own = {name.partition("/")[2]: t for name, t in states.items() if name.startswith(f"{rank}/")}
    state = own or {name: t for name, t in states.items() if "/" not in name}
    torch.set_rng_state(state["cpu"])
    for name, value in state.items():
        if name.startswith("cuda:") and torch.cuda.is_available():
            torch.cuda.set_rng_state(value, name)


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, then drop all but the newest ``KEEP``. Raises ResourceError (disk full)."""
    path = folder / f"step-{step:06d}"
    with rundir.writing(path) as scratch:
        scratch.mkdir(parents=True)
        for name, group in tensors.items():
            if group:
                weights.save(group, scratch / f"{name}.safetensors")
        (scratch / "state.json").write_text(json.dumps(state), encoding="utf-8")
        _seal(scratch)
    for old in _numbered(folder, "step")[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def save_best(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Older ones stay until ``prune_best``: a checkpoint may still refer to them."""
    path = folder / f"best-{step:06d}"
    with rundir.writing(path) as scratch:
        scratch.mkdir(parents=True)
        weights.save(tensors, scratch / "weights.safetensors")
        _seal(scratch)


def prune_best(folder: Path, keep: set[int]) -> None:
    for path in _numbered(folder, "best"):
        if _number(path) not in keep:
            shutil.rmtree(path, ignore_errors=True)


def read_best(folder: Path, step: int) -> dict[str, Tensor]:
    path = folder / f"best-{step:06d}"
    if not _whole(path):
        raise ModelError("the best weights of the run are damaged", "train again", str(path))
    return weights.read(path / "weights.safetensors")


def newest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint."""
    return next((path for path in reversed(_numbered(folder, "step")) if _whole(path)), None)


def read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """→ tensors by group, state."""
    groups = {file.stem: weights.read(file) for file in path.glob("*.safetensors")}
    return groups, rundir.read_json(path / "state.json")


def _seal(folder: Path) -> None:
    sums = {file.name: rundir.sha256(file) for file in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps({"schema_version": 1, "sha256": sums}, indent=2), encoding="utf-8")


def _whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        return all(rundir.sha256(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError, KeyError):
        return False


def _number(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _numbered(folder: Path, kind: str) -> list[Path]:
    found = [p for p in folder.glob(f"{kind}-*") if p.is_dir() and p.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=_number)
