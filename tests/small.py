"""What the behaviour tests share: little data files, one thread, and short ways to train and to look at a run."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import tunery
from tunery.models import machine
from tunery.run.run import Run

WORDS = ("parcel", "order", "refund", "invoice", "voucher", "delivery", "address", "password", "coupon", "return")
MOODS = {"good": ("great", "wonderful", "nice", "fine", "lovely"), "bad": ("awful", "boring", "poor", "dull", "sad")}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models are ten times slower on two threads when other tests use the same cores. Import it to use it."""
    monkeypatch.setattr(machine, "cpus", lambda: 1)
    torch.set_num_threads(1)


# ------------------------------------------------------------------------------------------------- data


def write(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file; strings are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of very different length with a label that a tiny model learns; half of them of each label."""
    pick = random.Random(seed)
    rows = []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        padding = pick.choices(WORDS, k=pick.randint(0, 8))
        rows.append({"text": " ".join([*padding, pick.choice(MOODS[label]), str(i)]), "label": label})
    return rows


def questions(count: int, seed: int = 0, longest: int = 30) -> list[dict[str, Any]]:
    """Questions whose answers have 1 to 30 words: rows with very different numbers of supervised tokens."""
    pick = random.Random(seed)
    rows = []
    for i in range(count):
        answer = " ".join(pick.choices(WORDS, k=longest if i % 5 == 0 else 1 + i % 3))
        rows.append({"question": f"{pick.choice(WORDS)} {i}?", "answer": answer})
    return rows


def scored(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with a number."""
    pick = random.Random(seed)
    return [{"text": " ".join(["very"] * (i % 4) + [pick.choice(WORDS)]), "label": i % 4 + 0.5} for i in range(count)]


def documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    pick = random.Random(seed)
    return [{"text": " ".join(pick.choices(WORDS, k=5 + 4 * i))} for i in range(count)]


def several(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with none, one or two labels."""
    pick = random.Random(seed)
    rows = []
    for i in range(count):
        labels = [name for name, bit in (("good", 1), ("bad", 2)) if (i % 4) & bit]
        rows.append({"text": " ".join(pick.choice(MOODS[name]) for name in labels) or "parcel", "label": labels})
    return rows


ROWS = {"instruct": questions, "lm": documents, "classify": labelled, "regress": scored}
"""Rows for each task; a new task needs an entry here to be tested."""


# -------------------------------------------------------------------------------------------- training


def train(folder: Path, model: Path, data: Path, **settings: Any) -> Run:
    """A run in ``folder``, in fp32, with answers of a few tokens. Settings: ``section__key=value``."""
    values: dict[str, Any] = {"model.dtype": "float32", "eval.max_new_tokens": 4, "eval.generate_rows": 2}
    values |= {"run.dir": str(folder)}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return tunery.train(data, model=str(model), **values)


def lively(base: Path, folder: Path) -> Path:
    """A copy of a tiny decoder with ten times larger embeddings.

    With random embeddings of deviation 0.02, tied to the output, no method that leaves them alone can move the
    logits far enough to learn anything.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in a run's ``model/``."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    assert found, f"no weights in {folder}"
    return found


def log(run: Run) -> list[dict[str, Any]]:
    """The records of metrics.jsonl."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(run: Run) -> list[float]:
    return [record["loss"] for record in log(run) if "loss" in record]


# ----------------------------------------------------------------------------------------- subprocesses


def _one_cpu() -> None:
    """The child runs on one CPU, so that it takes one thread (see ``machine.cpus``)."""
    os.sched_setaffinity(0, {random.SystemRandom().choice(sorted(os.sched_getaffinity(0)))})


def start(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """``tunery …`` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from tunery.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_one_cpu,
    )


def command(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """``tunery …`` to its end → exit code, stdout, stderr."""
    process = start(*arguments, cwd=cwd, env=env)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
