"""Everything before the first weight is loaded: configuration, data and model checked, rows encoded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tunery import scoring
from tunery.config import Config
from tunery.errors import ConfigError, DataError, ResourceError
from tunery.models import joined, machine
from tunery.models.load import Base, open_base
from tunery.protocols import Method, Task
from tunery.run import build, continuing, replay
from tunery.run.continuing import Parent
from tunery.run.dataset import Dataset
from tunery.run.encode import Split, encode_split, max_length, refuse_long_answers
from tunery.run.forgetting import General, general_rows
from tunery.run.records import pulling, say
from tunery.run.replay import Old

_MOST_WEIGHTS = 8  # classes whose weights are told; the manifest has all


@dataclass(slots=True)
class Prepared:
    """Everything before the first weight is loaded: nothing has been written yet."""

    config: Config
    dataset: Dataset
    base: Base
    task: Task
    method: Method
    splits: dict[str, Split]
    general: General | None
    """What shows forgetting, for a run that writes text."""
    parent: Parent | None = None
    """The run that this one goes on from."""
    old: Old | None = None
    kept: Split | None = None
    """Old validation rows, which show what is kept."""

    def split(self, name: str) -> Split:
        """Any of ``splits``, or what shows what is kept."""
        return self.kept if name == replay.KEPT and self.kept is not None else self.splits[name]

    @property
    def joined(self) -> bool:
        """Whether rows lie end to end while training."""
        train = self.config.train
        willing = train.join_rows and not train.dropout and self.task.joins_rows and self.method.joins_rows
        return willing and joined.fits(self.base.config, self.base.device)

    @property
    def scored(self) -> list[str]:
        """Splits whose numbers the run records."""
        return [s for s in ("validation", "test") if s in self.splits and (s != "test" or self.config.eval.test)]


def prepare(config: Config) -> Prepared:
    """Check configuration, data and model, in this order; encode the rows; resolve every default."""
    machine.prepare()
    _check_writable(Path(config.run.dir))
    if config.task_name and config.eval.metrics:
        task, _ = build.parts(config)
        # whether rows have several labels is seen in the data
        scoring.check(config.eval.metrics, (*task.kinds, *(("multilabel",) if "classes" in task.kinds else ())))
    if not config.data.train:
        raise ConfigError("no training data", "set data.train=FILE", "data.train")
    parent = continuing.parent_of(config)
    if parent is not None:
        config = continuing.with_parent(config, parent)
    dataset, old = replay.load(config)
    for note in dataset.notes:
        say(note)
    config = _with_task(config, dataset)
    task, method = build.parts(config)
    if parent is None:
        task.fit(dataset.splits["train"], config.data.label_names)
        for note in weighed(task, config):
            say(note)
        _refuse_unknown(dataset, task, config)
    else:
        continuing.take_over(task, parent, dataset, config)
    if config.eval.metrics:
        scoring.check(config.eval.metrics, task.kinds)
    base = open_base(config.model, progress=pulling)
    build.check_family(task, base)
    if parent is not None:
        continuing.check_base(base, parent)
    refuse_long_answers(config, task, base)
    method.prepare(task, base.tokenizer)
    length = max_length(config.data.max_length, task, base)
    key = f"{sorted(dataset.hashes.items())} {config.train.seed} {old.key if old else ''}"
    splits = {
        name: encode_split(name, examples, task, base.tokenizer, config.data, length, dataset.ledger, key)
        for name, examples in dataset.splits.items()
    }
    kept = None
    if old and len(old.kept):
        kept = encode_split(replay.KEPT, old.kept, task, base.tokenizer, config.data, length, dataset.ledger)
    for name, split in splits.items():
        for note in split.told(name, length):
            say(note)
    lr = config.train.lr or method.default_lr(base.parameters(), base.family)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update={"lr": lr}),
            "data": config.data.model_copy(
                update={"max_length": length, "format": dataset.format, "columns": dataset.columns}
            ),
        }
    )
    general = general_rows(config, task, method, base, splits["train"])
    return Prepared(config, dataset, base, task, method, splits, general, parent, old, kept)


def weighed(task: Task, config: Config) -> list[str]:
    """Weigh the classes of a fitted task, if that is wanted → notes on them. Raises ConfigError: it has none."""
    if config.train.class_weights is None:
        return list(task.notes)
    task.balance()
    weights = sorted(task.class_weights.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in weights[:_MOST_WEIGHTS])
    more = f", and {len(weights) - _MOST_WEIGHTS} more" if len(weights) > _MOST_WEIGHTS else ""
    return [*task.notes, f"weights of the classes in training: {shown}{more}"]


def _with_task(config: Config, dataset: Dataset) -> Config:
    from tunery import registry

    section = config.task or registry.config_class("task", dataset.task).model_validate({"name": dataset.task})
    return config.model_copy(update={"task": section})


def _refuse_unknown(dataset: Dataset, task: Task, config: Config) -> None:
    """Labels of validation and test that training never saw: an error, or dropped if the user said so."""
    for name, examples in dataset.splits.items():
        if name == "train":
            continue
        bad = [(example, problem) for example in examples if (problem := task.check(example))]
        if bad and config.data.on_bad_row == "error":
            example, problem = bad[0]
            more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
            raise DataError(
                f"{problem}{more}", "correct it, or drop such rows with data.on_bad_row=drop", example.where
            )


def _check_writable(folder: Path) -> None:
    """Raises ResourceError before anything expensive if runs cannot be written there."""
    import os

    at = next((p for p in (folder, *folder.absolute().parents) if p.exists()), Path("/"))
    if not at.is_dir() or not os.access(at, os.W_OK):
        raise ResourceError("cannot write runs here", "choose another place with run.dir=", str(folder))
    if shutil.disk_usage(at).free < 1 << 20:
        raise ResourceError("the disk is full", "free some disk space", str(folder))
