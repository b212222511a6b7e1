"""The old rows of a continued run: those that its parent, and the runs that one continued, were trained and judged on.

They are read again from the files of those runs, which must be what they were. A share of the training rows is mixed
into the new ones (experience replay: Robins 1995, doi:10.1080/09540099550039318; de Masson d'Autume et al. 2019,
arXiv:1906.01076); the validation rows show what is kept.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from tunery.config import Config
from tunery.data import inputs
from tunery.data.ledger import Ledger
from tunery.data.read import paths
from tunery.data.rows import Rows
from tunery.errors import DataError, TuneryError
from tunery.run.dataset import Dataset, load_dataset
from tunery.rundir import RunDir

KEPT = "kept"
"""Name of the split of old validation rows."""
_KEY = "train.replay"


@dataclass(slots=True)
class Old:
    """The rows of the runs before, those of the newest run first."""

    train: list[Rows] = field(default_factory=list)
    validation: list[Rows] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of their files, by absolute name."""
    replayed: int = 0
    available: int = 0
    """Old training rows that could be replayed."""
    kept: Rows = field(default_factory=lambda: Rows.of(()))
    """Old validation rows that the continued run does not train on."""
    problem: str = ""
    """Why they could not be read, where that is no error."""
    key: str = ""
    """Of the rows that are replayed, and how they were read."""


def load(config: Config) -> tuple[Dataset, Old | None]:
    """The rows of a run: those of its files, and the replayed ones if it continues another.

    Raises DataError: as ``load_dataset``, and if old rows are to be replayed whose files have changed or gone.
    """
    dataset = load_dataset(config.data, config.task_name, config.train.seed)
    if config.train.continue_from is None:
        return dataset, None
    try:
        old = _read(RunDir.open(config.train.continue_from))
    except TuneryError as error:
        if config.train.replay:
            hint = "put the files back as they were, or set train.replay=0 to go on without the old rows"
            raise DataError(f"the old rows cannot be replayed: {error.problem}", hint, error.where or _KEY) from None
        old = Old(problem=f"{error.where}: {error.problem}" if error.where else error.problem)
        dataset.notes.append(f"what is kept of the old rows cannot be measured: {old.problem}")
        return dataset, old
    _mix(dataset, old, config.train.replay, config.train.seed)
    dataset.hashes |= old.hashes
    return dataset, old


# ------------------------------------------------------------------------------------------------ reading


def _read(run: RunDir | None) -> Old:
    """Raises TuneryError: a run of the chain or a file of it is gone or is another one now."""
    old = Old()
    read = hashlib.sha256()
    while run is not None:
        config = run.config()
        if "-" in paths(config.data.train or []):
            raise DataError("it was standard input, which cannot be read again", "", str(run.path))
        data = config.data.model_copy(update={"augment": []})  # rows of files alone are replayed
        found = load_dataset(data, config.task_name, config.train.seed)
        _check(run, found)
        old.train.append(found.splits["train"])
        old.validation.append(found.splits["validation"])
        old.hashes |= {inputs.absolute(name): value for name, value in found.hashes.items()}
        read.update(data.model_dump_json().encode())
        parent = config.train.continue_from
        run = None if parent is None else RunDir.open(parent)
    old.key = read.hexdigest()
    return old


def _check(run: RunDir, found: Dataset) -> None:
    recorded = run.manifest().get("data") or {}
    for name, value in found.hashes.items():
        if recorded.get(inputs.absolute(name)) != value:
            raise DataError(f"the file has changed since {run.path.name} was trained on it", "", name)


# ------------------------------------------------------------------------------------------------- mixing


def _mix(dataset: Dataset, old: Old, share: float, seed: int) -> None:
    """Put a share of the old training rows behind the new ones (before their augmented copies), every row in one
    bucket of the ledger. A row whose input is among the new rows, or in a newer run, is not replayed: its answer may
    be out of date.
    """
    ledger = dataset.ledger
    seen = {mark for rows in dataset.splits.values() for mark in rows.inputs.tolist()}
    fresh: list[tuple[Rows, list[int]]] = []
    for rows in old.train:
        places = _first_seen(rows, seen)
        fresh.append((rows, places))
        _enter(ledger, rows.take(np.setdiff1d(np.arange(len(rows)), places)), "dropped:superseded", "train")
    every = [(number, place) for number, (_, places) in enumerate(fresh) for place in places]
    old.available = len(every)
    answers = [answer for rows, places in fresh for answer in _answers(rows, places)]
    drawn = _draw(answers, share, random.Random(f"replay {seed}")) if share and every else []
    old.replayed = len(drawn)
    chosen = {every[i] for i in drawn}
    replayed = []
    for number, (rows, places) in enumerate(fresh):
        picked = rows.take([place for place in places if (number, place) in chosen])
        replayed.append(picked)
        _enter(ledger, picked, "used:replay", "train")
        _enter(ledger, rows.take([p for p in places if (number, p) not in chosen]), "dropped:not_replayed", "train")
    if chosen:
        dataset.splits["train"] = _joined(dataset.splits["train"], replayed)
        dataset.notes.append(f"replay: {len(drawn)} of {len(every)} old training rows ({_KEY}={share:g}, seed {seed})")
    else:
        dataset.notes.append(f"replay: none of {len(every)} old training rows ({_KEY}={share:g})")
    _keep(dataset, old)
    digest = hashlib.sha256(f"{old.key} {share} {seed}".encode())
    digest.update(str(drawn).encode())
    old.key = digest.hexdigest()


def _answers(rows: Rows, places: Iterable[int]) -> list[Hashable]:
    """Equal for rows with the same answer and label."""
    said, labels, known = rows.answers.tolist(), rows.label_numbers, rows.store.label_sets
    return [(said[place], known[labels[place]]) for place in places]


def _draw(answers: Sequence[Hashable], share: float, pick: random.Random) -> list[int]:
    """Places of a share of the rows, one at least, with as large a share of each answer: first one row of every
    answer, so that none is forgotten for want of luck while there is room for all.

    >>> sorted("aaaaaabbbc"[i] for i in _draw("aaaaaabbbc", 0.4, random.Random(0)))
    ['a', 'a', 'b', 'c']
    """
    order = list(range(len(answers)))
    pick.shuffle(order)
    total, met = Counter(answers), Counter[Hashable]()
    rank = {}
    for place in order:
        answer = answers[place]
        rank[place] = met[answer] / total[answer]
        met[answer] += 1
    count = max(1, round(share * len(order)))
    return sorted(sorted(order, key=rank.__getitem__)[:count])


def _first_seen(rows: Rows, seen: set[int]) -> list[int]:
    """Places of rows with inputs that are not in ``seen``, which gets to know them."""
    known = set(seen)
    places = [place for place, mark in enumerate(rows.inputs.tolist()) if mark not in known]
    seen.update(rows.inputs.tolist())
    return places


def _joined(new: Rows, replayed: Sequence[Rows]) -> Rows:
    """Copies stay behind the rows of files (``Split.sources``)."""
    own = (example for example in new if not example.copy)
    copies = (example for example in new if example.copy)
    return Rows.of(chain(own, *replayed, copies))


def _keep(dataset: Dataset, old: Old) -> None:
    """Old validation rows, less those that are trained on now."""
    seen = {mark for name, rows in dataset.splits.items() if name == "train" for mark in rows.inputs.tolist()}
    parts = []
    for rows in old.validation:
        places = _first_seen(rows, seen)
        parts.append(rows.take(places))
        _enter(dataset.ledger, parts[-1], f"used:{KEPT}", KEPT)
        left = np.setdiff1d(np.arange(len(rows)), places)
        _enter(dataset.ledger, rows.take(left), "dropped:superseded", KEPT)
    old.kept = Rows.of(chain.from_iterable(parts))


def _enter(ledger: Ledger, rows: Rows, bucket: str, split: str) -> None:
    """A row may be known already: its file is read for the new rows too, or was for an older run."""
    for file, lines in rows.by_file():
        known, new = _parted(lines, ledger.lines(file, split))
        ledger.enter_all(file, new, bucket, split)
        if bucket.startswith("used:"):
            ledger.move_all(file, known, bucket, split)


def _parted(lines: Iterable[int], known: Iterable[int]) -> tuple[list[int], list[int]]:
    already = set(known)
    found: tuple[list[int], list[int]] = [], []
    for line in dict.fromkeys(lines):
        found[line not in already].append(line)
    return found
