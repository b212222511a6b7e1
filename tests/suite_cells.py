"""The cells of the common suite: every method with every task on every tiny architecture that the task can use.

Methods and tasks are those that the registry finds, so a new file is tested the day it appears. A cell is trained
by the parts that ``tunery train`` is made of, without the evaluations between, and saved as a finished run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import small
import tiny
from tunery import config as configuration
from tunery import registry
from tunery.data.batch import collate
from tunery.evaluate import Settings, answer
from tunery.generate.engine import Sampling
from tunery.models.attention import choose_attention
from tunery.protocols import Encoded, Method, Task
from tunery.run import build
from tunery.run.encode import probe
from tunery.run.prepare import Prepared, prepare
from tunery.rundir import RunDir
from tunery.train.loop import Trainer
from tunery.train.progress import StopRequest

MODELS = {
    "bert": "encoder",
    "distilbert": "encoder",
    "roberta": "encoder",
    "deberta": "encoder",
    "modernbert": "encoder",
    "gpt2": "decoder",
    "llama": "decoder",
    "qwen": "decoder",
    "gemma": "decoder",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
}
"""Tiny models and the kind of each; a task says which kinds it can use."""
THOROUGH = ("bert", "modernbert", "gpt2", "llama", "t5", "bart")
"""Two of each kind: on these resuming, accumulation and gradient checkpointing are checked as well."""
STEPS, LAST = 24, 3
"""Optimizer steps of a cell; an interrupted one is resumed for the last few."""
METHOD: dict[str, dict[str, Any]] = {"prompt": {"tokens": 4}, "p_tuning": {"tokens": 4}, "prefix": {"length": 4}}
"""What is changed in a method's configuration: in front of rows of a few tokens, a few vectors are many."""
LR = {"full": 1e-2, "freeze": 1e-2, "lora": 2e-2, "adalora": 5e-2, "bitfit": 5e-2, "prompt": 5e-2, "prefix": 5e-2}
"""Learning rates, where not ``DEFAULT_LR``: two dozen steps have to do what otherwise hundreds do."""
DEFAULT_LR = 3e-2


def _texts(count: int) -> list[dict[str, Any]]:
    """Labelled texts of a telling word and up to two others."""
    telling = [(row["text"].split()[-2], row["label"]) for row in small.labelled(count)]
    return [{"text": word + " parcel" * (i // 2 % 3), "label": label} for i, (word, label) in enumerate(telling)]


def _answers(count: int) -> list[str]:
    """One to three words, of two."""
    return [" ".join(small.WORDS[(i + n) % 2] for n in range(1 + i % 3)) for i in range(count)]


ROWS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    **small.ROWS,
    "classify": _texts,
    "cloze": _texts,
    "instruct": lambda count: [
        {"question": f"{small.WORDS[i]} {i}?", "answer": answer} for i, answer in enumerate(_answers(count))
    ],
    "seq2seq": lambda count: [
        {"prompt": f"{small.WORDS[i]} {i}?", "response": answer} for i, answer in enumerate(_answers(count))
    ],
    "lm": lambda count: [{"text": answer} for answer in _answers(count)],
}
"""Rows of a few tokens each, which frozen random layers can tell apart; for other tasks those of ``small``."""


@dataclass(frozen=True, slots=True)
class Cell:
    method: str
    task: str
    model: str

    def __str__(self) -> str:
        return f"{self.method}-{self.task}-{self.model}"


def cells() -> list[Cell]:
    return [
        Cell(method, task, model)
        for method in registry.names("method")
        for task in registry.names("task")
        for model, family in MODELS.items()
        if family in registry.get("task", task).families
    ]


@dataclass(slots=True)
class Found:
    """What a cell has shown so far. ``failed``: name of the check → how it failed."""

    folder: Path
    trainable: int = 0
    refused: str | None = None
    failed: dict[str, str] = field(default_factory=dict)

    def published(self) -> dict[str, Any]:
        """What the results file says."""
        if self.failed:
            return {"status": "failed", "checks": sorted(self.failed)}
        if self.refused:
            return {"status": "refused", "reason": self.refused}
        return {"status": "ok", "trainable": self.trainable}


# --------------------------------------------------------------------------------------------- models


AWAKE = 10
"""Factor of weights that are drawn with a deviation of 0.02."""


def awake(model: str, folder: Path) -> Path:
    """A tiny model whose matrices are so large that its layers do something, as those of a trained model do.

    With weights of deviation 0.02 everything but the residual stream is nearly zero, and no method that leaves the
    embeddings alone can move the logits far enough to learn anything. T5's own initialisation is large enough.
    """
    path = folder / model
    if not path.exists():
        if model == "bert":  # with its masked-language head; tests of sentence encoders use the bare one
            tiny.tiny_bert(path, transformers.BertForPreTraining)
        else:
            tiny.BUILDERS[model](path)
        file = path / "model.safetensors"
        tensors = {name: t * AWAKE if t.ndim > 1 and t.std() < 0.05 else t for name, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return path


def prepared(cell: Cell, models: Path, folder: Path) -> Prepared:
    """Raises ConfigError or ModelError where method and task, or task and model, do not go together."""
    data = folder / f"{cell.task}.jsonl"
    if not data.exists():
        small.write(data, ROWS[cell.task](8))
    values = {
        "model": {"name": str(awake(cell.model, models)), "dtype": "float32", "device": "cpu"},
        "data": {"train": str(data), "validation": str(data)},
        "task": cell.task,
        "method": {"name": cell.method, **METHOD.get(cell.method, {})},
        "train": {
            "lr": LR.get(cell.method, DEFAULT_LR),
            "max_steps": STEPS,
            "checkpoint_every": STEPS - LAST,
            "keep": "last",
            "weight_decay": 0.0,
            "dropout": 0.05,
        },
        "run": {"dir": str(folder), "name": str(cell)},
    }
    return prepare(configuration.build(values))


def record(run: RunDir, made: Prepared) -> None:
    """What loading a run looks at, of what ``manifest.record`` writes."""
    run.write_config(made.config)
    example, length = made.splits["train"].examples[0], made.config.data.max_length or 512
    run.update_manifest(base={"hash": made.base.hash()}, probe=probe(made.task, made.base.tokenizer, example, length))


@dataclass(slots=True)
class Made:
    """A freshly attached model, and what trains it."""

    task: Task
    method: Method
    model: nn.Module
    head: tuple[str, ...]
    trainer: Trainer


def anew(made: Prepared, run: RunDir, **train: Any) -> Made:
    """The beginning of a cell's run once more, with other keys of the section ``train``. Raises ConfigError."""
    settings = made.config.train.model_copy(update=train)
    config = made.config.model_copy(update={"train": settings})
    task, method = build.parts(config)
    task.restore(made.task.state())
    method.prepare(task, made.base.tokenizer)
    model, head = build.with_head(made.base, task, config)
    build.attach(method, task, model, head, config)
    return Made(task, method, model, head, trainer(made, run, config, task, method, model))


def trainer(
    made: Prepared, run: RunDir, config: configuration.Config, task: Task, method: Method, model: nn.Module
) -> Trainer:
    torch.manual_seed(config.train.seed + 2)
    rows, pad = made.splits["train"].rows, made.base.tokenizer.pad_token_id or 0
    joined = replace(made, config=config, task=task, method=method).joined
    accelerator = Accelerator(cpu=True)
    return Trainer(model, task, method, rows, config.train, run, accelerator, pad, evaluate=None, joined=joined)


def train(trainer: Trainer) -> None:
    """To the last step, silently."""
    silent: Any = SimpleNamespace(step=lambda *_: None, evaluated=lambda *_: None)
    trainer.train(silent, StopRequest())


# ------------------------------------------------------------------------------------ what a model says


@torch.no_grad()
def outputs(model: Any, task: Task, rows: list[Encoded], pad: int) -> tuple[float, Tensor]:
    """→ mean loss; logits, of a language model those at the supervised positions, one row after the other.

    With the kernel that training uses for this length, so that bits can be compared.
    """
    batch = collate(rows, pad)
    choose_attention(model, batch["input_ids"].shape, torch.device("cpu"))
    seen: list[Tensor] = []
    was_training = model.training
    model.eval()
    head = model.get_output_embeddings() if task.output == "text" else None
    hook = head.register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone())) if head else None
    loss, count, out = task.loss(model, batch)
    if hook:
        hook.remove()
    model.train(was_training)
    found = seen[-1].flatten(0, -2) if hook else out
    assert isinstance(found, Tensor), f"{task.name} gives no outputs"
    return float(loss) / max(int(count), 1), found.float().clone()


def texts(model: nn.Module, task: Task, tokenizer: Any, examples: Any, batch_size: int) -> list[str]:
    """A few greedy tokens for each example; nothing for tasks that do not write."""
    if task.output != "text":
        return []
    settings = Settings(batch_size=batch_size, sampling=Sampling(max_new_tokens=5))
    return [str(p.value) for p in answer(model, task, tokenizer, examples, settings)]


def write_rows(rows: list[Encoded], path: Path) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")


def read_rows(path: Path) -> list[Encoded]:
    rows = [Encoded(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    for row in rows:
        row.span = None if row.span is None else tuple(row.span)  # type: ignore[arg-type]
    return rows
