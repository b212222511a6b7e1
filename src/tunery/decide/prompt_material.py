"""What a search for prompts works with: rows to be scored on, rows for examples and words, the model, loaded once."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tunery import registry, scoring
from tunery.config import Config
from tunery.data.rows import Rows
from tunery.decide.prompt_scores import Material
from tunery.errors import ConfigError, DataError
from tunery.evaluate import Settings
from tunery.generate.engine import Sampling
from tunery.models import machine
from tunery.models.load import open_base
from tunery.protocols import Example
from tunery.run import build
from tunery.run.dataset import Dataset, load_dataset
from tunery.run.encode import max_length, model_limit
from tunery.run.records import pulling, say

SEARCHED = {"classify": "cloze", "cloze": "cloze", "instruct": "instruct"}
"""The task whose prompt is searched, by the task of the data."""
EACH, POOL = 16, 256
"""Training rows of a class that words and examples are taken from (LM-BFF's number), and of all classes."""


def open_material(config: Config, rows: int, metric: str | None) -> tuple[Material, dict[str, str]]:
    """→ the material, whose configuration has the task that is searched; SHA-256 of the data files.

    Test rows are not read. Raises TuneryError as training does, ConfigError for a task without prompts.
    """
    machine.prepare()
    if config.data.folds:
        raise ConfigError("a search uses one split", "leave data.folds out", "data.folds")
    wanted = _searched(config.task_name) if config.task_name else None
    data = config.data.model_copy(update={"augment": []})
    dataset = load_dataset(data, wanted, config.train.seed, ("train", "validation"))
    for note in dataset.notes:
        say(note)
    config = _resolved(config, dataset)
    task, _ = build.parts(config)
    task.fit(dataset.splits["train"], config.data.label_names)
    metric = metric or task.monitor
    scoring.check([metric], task.kinds)
    base = open_base(config.model, progress=pulling)
    build.check_family(task, base)
    if soft := task.soft_tokens(base.tokenizer):
        raise ConfigError(f"the template has {soft} soft tokens, which need training", "take them out", "task.template")
    scored, pool = _parted(dataset, rows, config.train.seed, task.name == "cloze")
    usable = [row for row in scored if not task.check(row)]
    if not usable:
        raise DataError("no development row can be used", "see tunery check", "data.validation")
    model, _ = build.with_head(base, task, config)
    how = _settings(config, max_length(config.data.max_length, task, base), model_limit(base))
    pool = [row for row in pool if not task.check(row)]
    return Material(config, base, model.eval(), task, how, metric, usable, pool), dataset.hashes


def _settings(config: Config, length: int, limit: int) -> Settings:
    return Settings(
        batch_size=config.eval.batch_size,
        batch_tokens=config.train.micro_tokens,
        max_length=length,
        max_prompt=max(limit - config.eval.max_new_tokens, 1),
        sampling=Sampling(max_new_tokens=config.eval.max_new_tokens),
    )


def _searched(task: str) -> str:
    if task not in SEARCHED:
        hint = "prompts are searched for classes (task=cloze) and for answers (task=instruct)"
        raise ConfigError(f"task {task} has no prompt to search", hint, "task.name")
    return SEARCHED[task]


def _resolved(config: Config, dataset: Dataset) -> Config:
    """With the task that is searched; what was sniffed is written down."""
    name = _searched(dataset.task)
    section = config.task
    if config.task_name != name:
        section = registry.config_class("task", name).model_validate({"name": name})
    found = {"format": dataset.format, "columns": dataset.columns}
    return config.model_copy(update={"task": section, "data": config.data.model_copy(update=found)})


def _parted(dataset: Dataset, wanted: int, seed: int, classes: bool) -> tuple[list[Example], list[Example]]:
    """→ rows to be scored: validation rows, and where they are too few up to half of the training rows; and others of
    the training rows, as many of each class as can be. All in random order.
    """
    random = np.random.default_rng(seed)
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    scored = list(validation.take(random.permutation(len(validation))[:wanted]))
    order = random.permutation(len(train))
    more = min(wanted - len(scored), len(train) // 2)
    scored += train.take(order[:more])
    if more:
        say(f"{len(scored)} development rows, {more} of them training rows")
    return scored, _pool(train.take(order[more:]), classes)


def _pool(rows: Rows, classes: bool) -> list[Example]:
    if not classes:
        return list(rows[:POOL])
    labels = rows.label_numbers
    most = max(2, min(EACH, POOL // len(set(labels))))
    counts: Counter[int] = Counter()
    places = []
    for place, label in enumerate(labels):
        counts[label] += 1
        if counts[label] <= most:
            places.append(place)
    return list(rows.take(places))

