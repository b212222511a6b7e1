"""Puts base, task and method together, fresh or from a run; the only place that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunery import registry
from tunery.config import Config
from tunery.data import soft
from tunery.errors import ConfigError, ModelError
from tunery.models import fast_norm, weights
from tunery.models.load import Base, open_base
from tunery.protocols import Method, Task
from tunery.run.encode import check_probe
from tunery.run.records import pulling
from tunery.rundir import RunDir, read_json, write_json

TASK_FILE = "task.json"


@dataclass(slots=True)
class Tuned:
    """A model with its task and method: all that evaluating, answering and saving needs."""

    base: Base
    task: Task
    method: Method
    model: nn.Module
    head: tuple[str, ...]

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    def save(self, folder: Path) -> None:
        """Method weights, tokenizer, template and labels."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.task.state()
        if state.get("template"):  # what other programs take from the tokenizer is then what was trained with
            self.tokenizer.chat_template = soft.without(state["template"])
        with weights.disk_errors():
            self.method.save(self.model, folder)
            self.tokenizer.save_pretrained(folder)
        write_json(folder / TASK_FILE, {"task": self.task.name, "head": list(self.head), "state": state})


def parts(config: Config) -> tuple[Task, Method]:
    """Task and method of a resolved configuration."""
    if config.task is None:
        raise ConfigError("task.name is missing", f"known: {', '.join(registry.names('task'))}", "task.name")
    task: Task = registry.get("task", str(config.task_name))(config.task)
    method: Method = registry.get("method", config.method_name)(config.method)
    return task, method


def check_family(task: Task, base: Base) -> None:
    """Raises ModelError if the task cannot use this kind of base model."""
    if base.family not in task.families:
        needed = " or ".join(f"{'an' if family[0] == 'e' else 'a'} {family}" for family in task.families)
        raise ModelError(
            f"task {task.name} needs {needed}, and {base.name} is of the kind {base.family}",
            _instead(task, base.family),
            "model.name",
        )
    if reason := task.refuses(base):
        problem, _, hint = reason.partition(";")
        raise ModelError(f"task {task.name}: {problem}", hint.strip(), "model.name")


def _instead(task: Task, family: str) -> str:
    """A task for the same data and this kind of model, or else a model for the task."""
    for name in registry.names("task"):
        other: type[Task] = registry.get("task", name)
        if family in other.families and other.output == task.output and set(other.formats) & set(task.formats):
            return f"task={name} does the same with a model of the kind {family}"
    examples = {"decoder": "use smollm2, for example", "encoder": "use minilm, for example"}
    return next((examples[f] for f in task.families if f in examples), "use a T5 or BART, for example")


def with_head(base: Base, task: Task, config: Config) -> tuple[nn.Module, tuple[str, ...]]:
    """The untouched model with the task's head; new weights follow from the seed."""
    torch.manual_seed(config.train.seed)
    model, head = task.head(base)
    if config.train.dropout is not None:
        _set_dropout(model, config.train.dropout)
    return model, head


def _set_dropout(model: nn.Module, rate: float) -> None:
    """In dropout layers, and where a module keeps the rate as a number (Llama's ``attention_dropout``)."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for key, value in vars(module).items():
            if "dropout" in key and isinstance(value, float):
                setattr(module, key, rate)


def attach(method: Method, task: Task, model: nn.Module, head: tuple[str, ...], config: Config) -> None:
    """Raises ConfigError with the method's reason if it refuses this model or task."""
    if reason := method.refuses(task, model):
        problem, _, hint = reason.partition(";")
        raise ConfigError(f"method {method.name} refuses task {task.name} here: {problem}", hint.strip(), "method.name")
    torch.manual_seed(config.train.seed + 1)
    method.attach(model, head)
    fast_norm.install(model)
    if config.train.gradient_checkpointing:
        enable = getattr(model, "gradient_checkpointing_enable", None) or getattr(
            getattr(model, "backbone", None), "gradient_checkpointing_enable", None
        )
        if enable is None:
            raise ConfigError(
                "this model has no gradient checkpointing", "set it to false", "train.gradient_checkpointing"
            )
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def load(run: RunDir, share: Callable[[Base], Base] | None = None) -> Tuned:
    """The tuned model of a finished run, exactly as it was trained.

    ``share`` may give a base whose weights other models have too (``models/several.py``).

    Raises ModelError: not a finished run, another base model, damaged weights, other token ids than at training.
    """
    manifest = run.manifest()
    if manifest.get("status") != "completed":
        raise ModelError(
            f"this run is {manifest.get('status', 'unfinished')}", f"tunery resume {run.path}", str(run.path)
        )
    config = run.config()
    base = open_base(config.model, progress=pulling)
    if base.hash() != manifest["base"]["hash"]:
        raise ModelError(
            f"{base.name} is not the model this run was trained on", "get that version back", str(base.folder)
        )
    base = share(base) if share is not None else base
    stored = read_json(run.model / TASK_FILE)
    task, method = parts(config)
    task.restore(stored["state"])
    method.prepare(task, base.tokenizer)
    check_probe(manifest["probe"], task, base.tokenizer, str(run.path))
    model, head = with_head(base, task, config)
    if list(head) != stored["head"]:
        raise ModelError(
            "the base model's head is another one than at training", "use the transformers version of the run"
        )
    method.load(model, run.model, head)
    return Tuned(base, task, method, model.eval(), head)
