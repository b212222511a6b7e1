"""What all entrants of a race share: the rows, the task fitted to them, the base."""

from __future__ import annotations

from dataclasses import dataclass

from tunery.config import Config
from tunery.data.findings import ORDER
from tunery.decide.language import Language, look
from tunery.errors import ConfigError
from tunery.models import machine
from tunery.models.load import Base, open_base
from tunery.protocols import Example, Task
from tunery.run import build
from tunery.run.dataset import Dataset, load_dataset
from tunery.run.records import pulling, say

FEW = 200
"""Training rows up to which one training says little about the next: several seeds, each with its own split."""
HELD_OUT = 0.25
"""Share of few rows that is held out: of 32 rows a tenth would be three."""
FEW_STEPS = 40
"""Steps that few rows are trained for, at least: an epoch of them is a handful."""


@dataclass(slots=True)
class Ground:
    """Read once, in the race's own process."""

    config: Config
    """With its task resolved."""
    dataset: Dataset
    task: Task
    base: Base
    language: Language | None
    few: bool

    @property
    def uneven(self) -> bool:
        """Whether accuracy would say little about the classes."""
        return bool(getattr(self.task, "uneven", False))

    @property
    def steps(self) -> int:
        """Of a whole training, as the configuration asks for."""
        train = self.config.train
        if train.max_steps is not None:
            return max(train.max_steps, 1)
        per_epoch = -(-len(self.dataset.splits["train"]) // (train.batch_size * train.accumulate))
        steps = max(round(train.epochs * per_epoch), 1)
        return max(steps, FEW_STEPS) if self.few else steps

    def rows(self) -> dict[str, int]:
        return {split: len(self.dataset.splits[split]) for split in ORDER if split in self.dataset.splits}


def survey(config: Config) -> Ground:
    """Raises TuneryError as a training would: configuration, data, model."""
    machine.prepare()
    if not config.data.train:
        raise ConfigError("no training data", "set data.train=FILE", "data.train")
    if config.data.folds:
        raise ConfigError("a race draws its own splits", "leave data.folds out", "data.folds")
    dataset = load_dataset(config.data, config.task_name, config.train.seed)
    for note in dataset.notes:
        say(note)
    config, task = fitted(config, dataset)
    base = open_base(config.model, progress=pulling)
    build.check_family(task, base)
    few = len(dataset.splits["train"]) + (not config.data.validation) * len(dataset.splits["validation"]) <= FEW
    if few and not config.data.validation:
        data = config.data.model_copy(update={"holdout": max(config.data.holdout, HELD_OUT)})
        config = config.model_copy(update={"data": data})
        dataset = load_dataset(config.data, config.task_name, config.train.seed)
        _, task = fitted(config, dataset)
    train = dataset.splits["train"]
    texts = [_text(train[i]) for i in range(0, len(train), max(len(train) // 500, 1))]
    return Ground(config, dataset, task, base, look(texts, base.tokenizer), few)


def fitted(config: Config, dataset: Dataset) -> tuple[Config, Task]:
    """The configuration with the task that the format has, and that task fitted to the training rows."""
    from tunery import registry

    section = config.task or registry.config_class("task", dataset.task).model_validate({"name": dataset.task})
    config = config.model_copy(update={"task": section})
    task, _ = build.parts(config)
    task.fit(dataset.splits["train"], config.data.label_names)
    return config, task


def _text(example: Example) -> str:
    """All that the base reads of a row."""
    if example.messages:
        return "\n".join(message.content for message in example.messages)
    return f"{example.input_text}\n{example.text_pair or ''}"


def split_of(ground: Ground, seed: int) -> tuple[Dataset, Task]:
    """The rows as a training with another seed divides them: others are held out where no validation file is given."""
    if seed == ground.config.train.seed:
        return ground.dataset, ground.task
    dataset = load_dataset(ground.config.data, ground.config.task_name, seed)
    return dataset, fitted(ground.config, dataset)[1]
