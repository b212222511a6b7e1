"""What becomes of rows that stand twice, contradict each other or leak between splits.

Every decision is in the ledger. Validation and test rows are never dropped for being there twice: scores must be
those of the rows that were given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunery.config import DataConfig
from tunery.data import findings, near
from tunery.data.findings import Finding, Repeat
from tunery.data.ledger import Ledger
from tunery.data.rows import Rows
from tunery.errors import DataError

KEYS = {
    "duplicate": "on_duplicate",
    "near_duplicate": "on_duplicate",
    "conflict": "on_conflict",
    "leak": "on_leak",
    "near_leak": "on_leak",
}
"""Kind of finding → the key of ``data`` that decides."""
LISTED = 10  # rows named in an error
_WHY = {
    "duplicate": "has the same input as another",
    "conflict": "has another label than the same input elsewhere",
    "leak": "is in a later split too",
    "near_leak": "is nearly the same as one of a later split",
}
_CROWD = 0.5  # of all rows: so many that are alike share a frame, not a meaning


@dataclass(slots=True)
class Checked:
    """The rows that are left, and what was found."""

    splits: dict[str, Rows]
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    groups: dict[str, list[int]] = field(default_factory=dict)
    """For each row that is left a number that rows share which must not be in two splits; empty: none are alike."""


def apply(splits: Mapping[str, Rows], data: DataConfig, ledger: Ledger) -> Checked:
    """Find repeats and leaks, and do with them what ``data`` says. Raises DataError where that is ``error``."""
    found = [*findings.repeats(splits), *findings.leaks(splits)]
    result = Checked(dict(splits))
    alike, result.groups = _near(splits, data, result.notes)
    exact = {(repeat.split, repeat.place) for repeat in found}
    leaked = {(repeat.split, repeat.place) for repeat in found if repeat.kind == "leak"}
    known = {"near_duplicate": exact, "near_leak": leaked}
    found += [repeat for repeat in alike if (repeat.split, repeat.place) not in known[repeat.kind]]
    result.findings = [repeat.finding(splits) for repeat in found] + findings.label_variants(splits.values())
    _refuse(found, splits, data)
    drop: dict[str, dict[int, Repeat]] = {}
    for repeat in found:
        if _dropped(repeat, data):
            drop.setdefault(repeat.split, {}).setdefault(repeat.place, repeat)
    for split, places in drop.items():
        rows = splits[split]
        for place, repeat in places.items():
            ledger.move(rows.where(place), f"dropped:{repeat.kind}", repeat.message, split=split)
        left = np.setdiff1d(np.arange(len(rows)), list(places))
        if not len(left):
            first = next(iter(places.values()))
            raise DataError(
                f"no {split} row is left, all {len(rows)} are dropped; the first: {first.message}",
                f"use other rows, or set data.{KEYS[first.kind]}=warn",
                rows.where(first.place),
            )
        result.splits[split] = rows.take(left)
        if result.groups:
            result.groups[split] = [result.groups[split][i] for i in left.tolist()]
    result.notes += _notes(found, data)
    return result


def _near(
    splits: Mapping[str, Rows], data: DataConfig, notes: list[str]
) -> tuple[list[Repeat], dict[str, list[int]]]:
    count = sum(map(len, splits.values()))
    many = count > near.MOST_ROWS or any(len(rows.kept()) < len(rows) for rows in splits.values())
    if data.near_duplicates is False or (data.near_duplicates == "auto" and many):
        if data.near_duplicates == "auto":
            notes.append(
                f"near-duplicates are not looked for among {count} rows (data.near_duplicates=true to do it)"
            )
        return [], {}
    found, groups = findings.near_repeats(splits)
    rows = len({(repeat.split, repeat.place) for repeat in found})
    if rows > _CROWD * count:
        notes.append(f"{rows} of {count} rows are nearly alike: a frame they share; only equal rows count")
        return [], {}
    return found, groups


def _dropped(repeat: Repeat, data: DataConfig) -> bool:
    if repeat.kind == "near_duplicate" or getattr(data, KEYS[repeat.kind]) != "drop":
        return False
    if repeat.kind in ("leak", "near_leak"):
        return not repeat.own
    return repeat.split == "train" and (repeat.same or repeat.kind == "conflict")


def _refuse(found: Sequence[Repeat], splits: Mapping[str, Rows], data: DataConfig) -> None:
    for kind, why in _WHY.items():
        strict = getattr(data, KEYS[kind]) == "error"
        rows = [repeat for repeat in found if repeat.kind == kind and strict and not repeat.own]
        if rows:
            places = [splits[repeat.split].where(repeat.place) for repeat in rows]
            listed = "; ".join(f"{at}: {repeat.message}" for at, repeat in zip(places, rows[:LISTED], strict=False))
            more = f"; and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
            raise DataError(
                f"{_counted(len(rows), why)}: {listed}{more}",
                f"correct them, or set data.{KEYS[kind]}=drop or warn",
                places[0],
            )


def _notes(found: Sequence[Repeat], data: DataConfig) -> list[str]:
    """One line for each kind, with what was done."""
    notes = []
    for kind, why in _WHY.items():
        rows = [repeat for repeat in found if repeat.kind == kind]
        if not rows:
            continue
        dropped = sum(_dropped(repeat, data) for repeat in rows)
        count = _counted(len(rows), why, "" if any(repeat.split != "train" for repeat in rows) else "training ")
        done = f"{dropped} dropped" if dropped else "kept"
        if all(repeat.own for repeat in rows):
            notes.append(f"{count}, of the same file: scores on these say nothing about new data")
        else:
            notes.append(f"{count}: {done} (data.{KEYS[kind]}={getattr(data, KEYS[kind])})")
    return notes


def _counted(count: int, why: str, kind: str = "") -> str:
    if count == 1:
        return f"1 {kind}row {why}"
    return f"{count} {kind}rows {why.replace('has ', 'have ', 1).replace('is ', 'are ', 1)}"
