"""What data files are: which split each belongs to, format, columns, labels, language, lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunery import registry
from tunery.config import Config
from tunery.data import inputs
from tunery.data.inputs import ROLES
from tunery.data.read import READERS, read
from tunery.data.rows import labels_of
from tunery.protocols import Example, Row, Task
from tunery.run.dataset import SPLITS, Dataset, load_dataset

BESIDE = {*READERS, ".gz"}
CHINESE = 0.2  # of what a row says, from which it counts as Chinese
_HAN, _LATIN, _KANA = re.compile("[㐀-䶿一-鿿]"), re.compile("[A-Za-z]"), re.compile("[ぁ-ヿ]")


@dataclass(slots=True)
class Sniffed:
    """What the files are."""

    dataset: Dataset
    task: type[Task]
    columns: dict[str, str]
    """Used columns, {name tunery knows: name in the file}."""
    rows: dict[str, int]
    labels: dict[str, int]
    languages: dict[str, float]
    bad: list[str]
    """Why rows cannot be used, with their places."""
    tokens: list[int]
    """An estimate for each training row, ascending."""

    @property
    def train(self) -> int:
        return self.rows["train"]


def assign(files: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """→ files by split, and what was decided. Files called test.* and the like are never trained on by accident."""
    names = [name for file in files for name in inputs.expand(file)]
    splits: dict[str, list[str]] = {}
    for name in names:
        splits.setdefault(inputs.role(name) or "train", []).append(name)
    if "train" not in splits:
        return {"train": names}, []
    notes = [
        f"{name} is taken as {split}, by its name" for split in splits if split != "train" for name in splits[split]
    ]
    if len(names) == 1 and inputs.stem(names[0]).lower() == "train":
        for split, path in _siblings(Path(names[0])).items():
            splits[split] = [str(path)]
            notes.append(f"{path} stands beside it and is taken as {split}")
    return splits, notes


def _siblings(train: Path) -> dict[str, Path]:
    """Files of the same kind beside ``train.*`` that are called validation or test (or dev, …)."""
    found: dict[str, Path] = {}
    beside = sorted(train.parent.iterdir()) if train.parent.is_dir() and train.suffix.lower() in BESIDE else []
    for name, split in ROLES.items():
        for path in beside:
            if path.is_file() and inputs.stem(path).lower() == name != "train" and path.suffixes == train.suffixes:
                found.setdefault(split, path)
    return found


def sniff(config: Config) -> Sniffed:
    """Read everything once. Raises DataError if no format fits or no row can be used."""
    data = config.data.model_copy(update={"on_bad_row": "drop"})
    splits = [name for name in SPLITS if getattr(data, name)]
    dataset = load_dataset(data, config.task_name, config.train.seed, splits)
    dataset.notes = [note for note in dataset.notes if "data.on_bad_row" not in note]
    train = dataset.splits["train"]
    labels = Counter(label for example in train for label in (*labels_of(example), *example.tags))
    name = config.task_name or ("regress" if _numbers(labels) else dataset.task)
    if name != (config.task_name or dataset.task):
        dataset.notes.append(
            f"the labels are {len(labels)} different numbers: task regress (task=classify for classes)"
        )
    task: type[Task] = registry.get("task", name)
    unseen = _unseen(dataset, labels) if {"classes", "tags"} & set(task.kinds) else []
    bad = [f"{e.where}: {e.note}" for e in dataset.ledger.entries() if e.bucket == "dropped:bad"]
    return Sniffed(
        dataset,
        task,
        _columns(dataset, config),
        {name: len(examples) for name, examples in dataset.splits.items()},
        {} if "numbers" in task.kinds else dict(labels.most_common()),
        languages(example for examples in dataset.splits.values() for example in examples),
        bad + unseen,
        sorted(_tokens(example, task.output) for example in train),
    )


def _numbers(labels: Mapping[str, int]) -> bool:
    """Labels that are a scale rather than classes: many different numbers, not all of them whole."""
    try:
        return len(labels) > 10 and not all(float(label).is_integer() for label in labels)
    except ValueError:
        return False


def _unseen(dataset: Dataset, labels: Mapping[str, int]) -> list[str]:
    """Rows of other splits with labels that no training row has."""
    found = []
    for name, examples in dataset.splits.items():
        for example in examples:
            said = (*labels_of(example), *example.tags)
            strange = [label for label in said if label not in labels]
            if name != "train" and strange:
                found.append(f"{example.where}: label {strange[0]!r} does not occur in the training rows")
    return found


def _columns(dataset: Dataset, config: Config) -> dict[str, str]:
    form = registry.get("format", dataset.format)
    names = config.data.train
    first = next((row for row in read(names or [], config.data.encoding) if isinstance(row, Row)), None)
    present = first.values if first else {}
    mapping = {known: column for known, column in dataset.columns.items() if column in present}
    return mapping | {c: c for c in (*form.columns, *form.optional) if c in present and c not in mapping}


def _text(example: Example) -> str:
    answer = example.messages[-1].content if example.messages else ""
    return f"{example.input_text}\n{answer}"


def languages(examples: Iterable[Example]) -> dict[str, float]:
    """Share of the rows in Chinese, in Latin letters (English and its like), and in neither."""
    counts: Counter[str] = Counter()
    for example in examples:
        text = _text(example)
        han, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
        if _KANA.search(text) or not han + latin:
            counts["other"] += 1
        else:
            # a Chinese word is two characters, an English one five letters
            counts["chinese" if han * 2.5 >= CHINESE * (han * 2.5 + latin) else "latin"] += 1
    return {name: round(count / counts.total(), 4) for name, count in counts.most_common()}


def _tokens(example: Example, output: str) -> int:
    """A rough number: the packs' tokenizers are English ones, that of the decoder works on bytes."""
    text = _text(example)
    han = len(_HAN.findall(text))
    return round((len(text) - han) / 4 + han * (1.0 if output == "logits" else 1.8)) + (2 if output == "logits" else 35)
