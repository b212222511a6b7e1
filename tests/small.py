"""What the behaviour tests share: little data files, one thread, and short ways to train and to look at a run."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import tunery
from tunery.models import machine
from tunery.run.run import Run

WORDS = ("parcel", "order", "refund", "invoice", "voucher", "delivery", "address", "password", "coupon", "return")
MOODS = {"good": ("great", "wonderful", "nice", "fine", "lovely"), "bad": ("awful", "boring", "poor", "dull", "sad")}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are ten times slower on two threads when other tests use the same cores. Import it to use it."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "cpus", lambda: 1)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


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


def spans(count: int, seed: int = 0, longest: int = 3) -> list[dict[str, Any]]:
    """Questions to contexts of very different length; the answer is the one number in it."""
    pick = random.Random(seed)
    rows = []
    for i in range(count):
        before, after = (pick.choices(WORDS, k=pick.randint(1, longest)) for _ in range(2))
        context = " ".join([*before, "number", str(i), *after])
        rows.append({"context": context, "question": "which number?", "answers": [str(i)]})
    return rows


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences in which good and bad words are tagged, the latter together with the word after them."""
    pick = random.Random(seed)
    rows = []
    for i in range(count):
        words, tags = [pick.choice(WORDS), str(i)], ["O", "O"]
        for label in pick.choices(("good", "bad"), k=1 + i % 3):
            words += [pick.choice(MOODS[label]), pick.choice(WORDS)]
            tags += ["B-GOOD", "O"] if label == "good" else ["B-BAD", "I-BAD"]
        rows.append({"words": words, "tags": tags})
    return rows


def translations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts with short responses."""
    return [{"prompt": row["question"], "response": row["answer"]} for row in questions(count, seed, longest=4)]


ROWS = {
    "instruct": questions,
    "lm": documents,
    "classify": labelled,
    "cloze": labelled,
    "regress": scored,
    "extract_qa": spans,
    "seq2seq": translations,
    "tag": tagged,
}
"""Rows for each task; a new task needs an entry here to be tested."""


# -------------------------------------------------------------------------------------------- training


def train(folder: Path, model: Path, data: Path, **settings: Any) -> Run:
    """A run in ``folder``, in fp32, with answers of a few tokens. Settings: ``section__key=value``."""
    values: dict[str, Any] = {"model.dtype": "float32", "eval.max_new_tokens": 4, "eval.generate_rows": 2}
    values["run.report"] = False
    values |= {"run.dir": str(folder)}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    return tunery.train(data, model=str(model), **values)


def lively(base: Path, folder: Path) -> Path:
    """A copy of a tiny decoder with ten times larger embeddings, of tokens and of positions.

    With random embeddings of deviation 0.02, tied to the output, no method that leaves them alone can move the
    logits far enough to learn anything.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.mul_(10)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its relative name; not of the model card, which names the run."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
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
    """The process runs on one CPU, so that it takes one thread (see ``machine.cpus``)."""
    os.sched_setaffinity(0, {random.SystemRandom().choice(sorted(os.sched_getaffinity(0)))})


def command(*arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """``tunery …`` in a fresh process, which takes seconds to import torch → exit code, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-c", "from tunery.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=_one_cpu,
    )
    return done.returncode, done.stdout, done.stderr


class Child:
    """``tunery …`` in a process of its own, forked from one that has imported everything: starts in a moment."""

    _context: Any = None
    _preloaded = (
        "tunery.cli", "tunery.run.run", "peft", "sklearn.metrics", "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2", "small",
    )  # fmt: skip

    def __init__(self, *arguments: str | Path, cwd: Path) -> None:
        if Child._context is None:
            Child._context = multiprocessing.get_context("forkserver")
            Child._context.set_forkserver_preload(list(self._preloaded))
        number = len(list(cwd.glob("child-*.out")))
        self._out, self._err = cwd / f"child-{number}.out", cwd / f"child-{number}.err"
        self._out.touch()
        self._err.touch()
        self._process = Child._context.Process(
            target=_child, args=([str(a) for a in arguments], str(cwd), str(self._out), str(self._err))
        )
        self._process.start()

    @property
    def running(self) -> bool:
        return bool(self._process.is_alive())

    def send(self, number: int) -> None:
        assert self.running, f"it was over before it could be sent a signal: {self._err.read_text(encoding='utf-8')}"
        os.kill(self._process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Wait → exit code (negative: the signal it died of), stdout, stderr."""
        self._process.join(120)
        code = self._process.exitcode
        assert code is not None, "still running"
        return code, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")


def _child(arguments: list[str], cwd: str, out: str, err: str) -> None:
    from tunery.cli import main

    os.chdir(cwd)
    _one_cpu()
    for path, number in ((out, 1), (err, 2)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    main(arguments)
