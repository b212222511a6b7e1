"""Hold out validation rows: seeded, by label, and never the same input on both sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tunery.data.findings import fingerprint, labels_of
from tunery.errors import DataError
from tunery.protocols import Example

HINT = "give validation rows with data.validation=FILE"


@dataclass(slots=True)
class _Group:
    """Rows with the same input; they stay together."""

    rows: list[int]
    labels: Counter[str]


def holdout(examples: Sequence[Example], share: float, seed: int, stratify: bool = True) -> tuple[list[int], list[int]]:
    """→ indices to train on and indices held out, both ascending.

    The same rows and seed give the same split on every machine. With ``stratify`` every label keeps its share
    on both sides as far as numbers allow, and at least one training row. Rows with the same input (normalised)
    stay on one side.

    ``share`` of the rows, above 0 and below 1, is held out, at least one row.

    Raises DataError if nothing can be held out: one distinct input, or every row the only one of its label.
    """
    groups = _grouped(examples, stratify)
    if len(groups) < 2:
        raise DataError(f"no validation rows can be held out of {len(examples)} with one distinct input", HINT, "data")
    strata: dict[tuple[str, ...], list[_Group]] = {}
    for group in groups:
        strata.setdefault(tuple(sorted(group.labels)), []).append(group)
    generator = random.Random(seed)
    ordered = [strata[key] for key in sorted(strata)]  # sorted: file order must not depend on sets or hashes
    for stratum in ordered:
        generator.shuffle(stratum)
    want = min(max(1, round(share * len(examples))), len(examples) - 1)
    turns = _in_turn(ordered, _quotas(ordered, want, generator), generator)
    held = _take(turns, want)
    if not held:  # even the smallest group is more than was asked for
        smallest = sorted(turns, key=lambda group: len(group.rows))
        held = next((rows for group in smallest if (rows := _take(turns, len(group.rows)))), [])
    if not held or len(held) == len(examples):
        raise DataError("no validation rows can be held out: every label has one distinct row", HINT, "data")
    kept = set(range(len(examples))) - set(held)
    return sorted(kept), sorted(held)


def _grouped(examples: Sequence[Example], stratify: bool) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    for index, example in enumerate(examples):
        group = groups.setdefault(fingerprint(example), _Group([], Counter()))
        group.rows.append(index)
        if stratify:
            group.labels.update(labels_of(example))
    return list(groups.values())


def _quotas(strata: list[list[_Group]], want: int, generator: random.Random) -> list[int]:
    """Groups to hold out of each stratum: proportional, the largest remainders rounded up."""
    total = sum(map(len, strata))
    exact = [want * len(stratum) / total for stratum in strata]
    quotas = [int(number) for number in exact]
    # ties are broken by lot, or the labels that come first in the alphabet would always win
    order = sorted(range(len(strata)), key=lambda i: (quotas[i] - exact[i], generator.random()))
    for index in order[: max(0, want - sum(quotas))]:
        quotas[index] += 1
    return quotas


def _take(turns: list[_Group], want: int) -> list[int]:
    """Rows of the first groups that fit into ``want`` rows and are not the last of their label."""
    left: Counter[str] = Counter()
    for group in turns:
        left.update(group.labels)
    held: list[int] = []
    for group in turns:
        fits = len(held) + len(group.rows) <= want
        if fits and all(left[label] > count for label, count in group.labels.items()):
            left.subtract(group.labels)
            held += group.rows
    return held


def _in_turn(strata: list[list[_Group]], quotas: list[int], generator: random.Random) -> list[_Group]:
    """The groups that the quotas ask for, then all others, as a reserve for those that cannot be taken."""
    chosen = [group for stratum, quota in zip(strata, quotas, strict=True) for group in stratum[:quota]]
    reserve = [group for stratum, quota in zip(strata, quotas, strict=True) for group in stratum[quota:]]
    generator.shuffle(reserve)
    return chosen + reserve
