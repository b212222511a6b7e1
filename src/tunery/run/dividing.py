"""Which training rows are held out: for validation, and as the part that a run of a cross-validation is tested on."""

from __future__ import annotations

from collections.abc import Sequence

from tunery.config import DataConfig
from tunery.data.ledger import Ledger
from tunery.data.policies import Checked
from tunery.data.rows import Rows
from tunery.data.split import folds, holdout, latest, nested
from tunery.errors import ConfigError


def check_keys(data: DataConfig) -> None:
    """Raises ConfigError for keys that contradict each other."""
    if data.group and data.time:
        raise ConfigError("rows are held out by group or by time, not both", "leave one out", "data.time")
    if data.fold and not data.folds:
        raise ConfigError("a fold of how many?", "set data.folds, for example 5", "data.fold")
    if data.folds and data.fold and data.fold > data.folds:
        raise ConfigError(f"there are {data.folds} folds", f"choose one from 1 to {data.folds}", "data.fold")
    if data.folds and data.test:
        hint = "leave data.test out, or data.folds"
        raise ConfigError("cross-validation takes the rows to test on from train", hint, "data.folds")
    if data.folds and data.time:
        raise ConfigError("folds are drawn at random, not by time", "leave data.folds or data.time out", "data.folds")


def divide(checked: Checked, wanted: Sequence[str], data: DataConfig, seed: int, task: str, ledger: Ledger) -> None:
    """Move rows of train to ``test`` (a fold) and to ``validation``, where these are wanted and not given."""
    if data.folds and data.fold:
        numbers = folds(checked.splits["train"], data.folds, seed, _stratify(checked, task), _alike(checked))
        held = [i for i, number in enumerate(numbers) if number == data.fold - 1]
        rows = len(numbers)
        _move(checked, [i for i, number in enumerate(numbers) if number != data.fold - 1], held, "test", ledger)
        checked.notes.append(f"fold {data.fold} of {data.folds}: tested on {len(held)} of {rows} training rows")
    if "validation" in wanted and "validation" not in checked.splits:
        _validation(checked, data, seed, task, ledger)
    if data.take:
        _take(checked, data.take, seed, task, ledger)


def _take(checked: Checked, count: int, seed: int, task: str, ledger: Ledger) -> None:
    """Leave training rows out until ``count`` are left; what is held out stays the same for any count."""
    rows = checked.splits["train"]
    if count > len(rows):
        checked.notes.append(f"data.take={count}: there are only {len(rows)} training rows")
    order = nested(rows, seed, _stratify(checked, task))
    kept, left = sorted(order[:count]), sorted(order[count:])
    for file, lines in rows.take(left).by_file():
        ledger.move_all(file, lines, "dropped:not_taken", "train")
    checked.splits = {**checked.splits, "train": rows.take(kept)}
    if groups := checked.groups.get("train"):
        checked.groups |= {"train": [groups[i] for i in kept]}


def _validation(checked: Checked, data: DataConfig, seed: int, task: str, ledger: Ledger) -> None:
    rows = checked.splits["train"]
    if data.time:
        train, held = latest(rows, data.holdout)
        how = f"the latest by {data.time}"
    else:
        stratify = _stratify(checked, task)
        train, held = holdout(rows, data.holdout, seed, stratify, _alike(checked))
        how = f"seed {seed}" + ", by label" * stratify + f", whole groups of {data.group}" * bool(data.group)
    _move(checked, train, held, "validation", ledger)
    checked.notes.append(
        f"validation: {len(held)} of {len(rows)} training rows held out "
        f"(data.holdout={data.holdout:g}, {how}); data.validation=FILE to choose them yourself"
    )


def _stratify(checked: Checked, task: str) -> bool:
    # numbers to predict are no classes: hardly any two rows would share one
    return task != "regress" and checked.splits["train"].label(0) is not None


def _alike(checked: Checked) -> Sequence[int]:
    return checked.groups.get("train", ())


def _move(checked: Checked, kept: list[int], held: list[int], split: str, ledger: Ledger) -> None:
    rows: Rows = checked.splits["train"]
    for file, lines in rows.take(held).by_file():
        ledger.move_all(file, lines, f"used:{split}", "train")
    checked.splits = {**checked.splits, "train": rows.take(kept), split: rows.take(held)}
    if groups := checked.groups.get("train"):
        checked.groups |= {"train": [groups[i] for i in kept], split: [groups[i] for i in held]}
