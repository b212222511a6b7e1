"""Hold out rows: seeded, by label, by group or by time, and never the same input on both sides."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from tunery.data.near import clusters
from tunery.data.rows import Rows, as_labels
from tunery.errors import DataError
from tunery.protocols import Example

HINT = "give validation rows with data.validation=FILE"


@dataclass(slots=True)
class _Group:
    """Rows that stay together."""

    rows: list[int]
    labels: Counter[str]


def holdout(
    examples: Sequence[Example],
    share: float,
    seed: int,
    stratify: bool = True,
    groups: Sequence[int] = (),
) -> tuple[list[int], list[int]]:
    """→ indices to train on and indices held out, both ascending.

    The same rows and seed give the same split on every machine. With ``stratify`` every label keeps its share
    on both sides as far as numbers allow, and at least one training row. Rows with the same input (normalised),
    of one group (``Example.group``) or with the same number in ``groups`` stay on one side.

    ``share`` of the rows, above 0 and below 1, is held out, at least one row.

    Raises DataError if nothing can be held out: one distinct input, or every row the only one of its label.
    """
    rows, generator = Rows.of(examples), random.Random(seed)
    want = min(max(1, round(share * len(rows))), len(rows) - 1)
    links = _links(rows, groups)
    if not links and not stratify and want > 0:  # what the rest comes to, for millions of rows
        order = list(range(len(rows)))
        generator.shuffle(order)
        return sorted(order[want:]), sorted(order[:want])
    found = _grouped(rows, stratify, links)
    if len(found) < 2:
        raise DataError(f"no validation rows can be held out of {len(rows)} with one distinct input", HINT, "data")
    ordered = _strata(found, generator)
    chosen, reserve = _in_turn(ordered, _quotas(ordered, want, generator))
    left: Counter[str] = Counter()
    for group in found:
        left.update(group.labels)

    def turns() -> Iterator[_Group]:
        yield from chosen
        generator.shuffle(reserve)  # seldom needed, and slow
        yield from reserve

    held = _take(turns(), want, left)
    if not held:  # even the smallest group is more than was asked for
        every = [*chosen, *reserve]
        smallest = sorted(every, key=lambda group: len(group.rows))
        held = next((taken for group in smallest if (taken := _take(every, len(group.rows), left))), [])
    if not held or len(held) == len(rows):
        raise DataError("no validation rows can be held out: every label has one distinct row", HINT, "data")
    kept = np.setdiff1d(np.arange(len(rows)), held, assume_unique=True)
    return kept.tolist(), sorted(held)


def latest(rows: Rows, share: float) -> tuple[list[int], list[int]]:
    """→ indices of the earlier rows and of the last ``share`` of them in time (``Example.group``), both ascending.

    Rows of one moment stay on one side. Raises DataError: a value that is no time, or one moment only.
    """
    moments = [moment(example) for example in rows]
    order = sorted(range(len(rows)), key=lambda i: (moments[i], i))
    want = min(max(1, round(share * len(rows))), len(rows) - 1)
    begin = moments[order[len(rows) - want]]
    if begin == moments[order[0]]:
        begin = next((moments[i] for i in order if moments[i] > begin), begin)
    held = [i for i in range(len(rows)) if moments[i] >= begin]
    if len(held) == len(rows):
        raise DataError("all rows are of one time: there are no later ones to hold out", HINT, "data.time")
    return [i for i in range(len(rows)) if moments[i] < begin], held


def moment(example: Example) -> float:
    """The number, or the ISO 8601 date, in ``Example.group``. Dates without a zone count as UTC."""
    value = (example.group or "").strip()
    unknown = DataError(
        f"{value[:40]!r} is no time", "write dates as 2026-11-22 or 2026-11-22T08:30, or numbers", example.where
    )
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        if math.isfinite(number):
            return number
        raise unknown
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise unknown from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def folds(rows: Rows, count: int, seed: int, stratify: bool = True, groups: Sequence[int] = ()) -> list[int]:
    """→ the fold, 0 to ``count`` - 1, of each row. Every label is spread evenly; what ``holdout`` keeps together stays
    together here. Raises DataError: fewer distinct inputs than folds.
    """
    found = _grouped(rows, stratify, _links(rows, groups))
    if len(found) < count:
        hint = "have fewer folds, or more rows"
        raise DataError(f"{len(found)} distinct inputs are too few for {count} folds", hint, "data.folds")
    generator = random.Random(seed)
    sizes = [0] * count
    result = [0] * len(rows)
    for stratum in _strata(found, generator):
        of_label = [0] * count
        for group in sorted(stratum, key=lambda group: -len(group.rows)):
            fold = min(range(count), key=lambda i: (of_label[i], sizes[i], i))
            of_label[fold] += len(group.rows)
            sizes[fold] += len(group.rows)
            for row in group.rows:
                result[row] = fold
    return result


def nested(rows: Rows, seed: int, stratify: bool = True) -> list[int]:
    """All indices in an order of which every beginning is a random sample, with ``stratify`` by label.

    The first rows bring every label once, so that no sample lacks one that it has room for.
    """
    generator = random.Random(seed)
    if not stratify:
        return generator.sample(range(len(rows)), len(rows))
    strata: dict[int, list[int]] = {}
    for row, label in enumerate(rows.label_numbers):
        strata.setdefault(label, []).append(row)
    places: dict[int, float] = {}
    for stratum in strata.values():
        generator.shuffle(stratum)
        offset = generator.random()
        places |= {row: (number + offset) / len(stratum) for number, row in enumerate(stratum)}
    first: list[int] = []
    rest: list[int] = []
    seen: set[str] = set()
    for row in sorted(places, key=lambda row: (places[row], row)):
        found = set(as_labels(rows.label(row)))
        (rest if found <= seen else first).append(row)
        seen |= found
    return first + rest


def _links(rows: Rows, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of rows that share an input, a group of the user's or one of ``numbers``."""
    first: dict[tuple[str, object], int] = {}
    links = _equal(rows.inputs)
    for kind, values in (("group", rows.group_numbers if rows.grouped else ()), ("alike", numbers)):
        for row, value in enumerate(values):
            if value is not None:
                earlier = first.setdefault((kind, value), row)
                if earlier != row:
                    links.append((earlier, row))
    return links


def _grouped(rows: Rows, stratify: bool, links: Sequence[tuple[int, int]]) -> list[_Group]:
    """Rows that are linked, in the order of their first rows."""
    groups: dict[int, _Group] = {}
    label_numbers = rows.label_numbers
    for row, root in enumerate(clusters(len(rows), links)):
        group = groups.setdefault(root, _Group([], Counter()))
        group.rows.append(row)
        if stratify:
            group.labels.update(as_labels(rows.store.label_sets[label_numbers[row]]))
    return list(groups.values())


def _equal(inputs: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Each row that has the input of an earlier one, with the first that has it."""
    _, first, which = np.unique(inputs, return_index=True, return_inverse=True)
    earliest = first[which]
    again = np.flatnonzero(earliest != np.arange(len(inputs)))
    return list(zip(earliest[again].tolist(), again.tolist(), strict=True))


def _strata(groups: Sequence[_Group], generator: random.Random) -> list[list[_Group]]:
    """Groups by their labels, shuffled within."""
    strata: dict[tuple[str, ...], list[_Group]] = {}
    for group in groups:
        strata.setdefault(tuple(sorted(group.labels)), []).append(group)
    ordered = [strata[key] for key in sorted(strata)]  # sorted: file order must not depend on sets or hashes
    for stratum in ordered:
        generator.shuffle(stratum)
    return ordered


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


def _take(turns: Iterable[_Group], want: int, labels: Counter[str]) -> list[int]:
    """Rows of the first groups that fit into ``want`` rows and are not the last of their label, of ``labels``."""
    left = labels.copy()
    held: list[int] = []
    for group in turns:
        fits = len(held) + len(group.rows) <= want
        if fits and all(left[label] > count for label, count in group.labels.items()):
            left.subtract(group.labels)
            held += group.rows
        if len(held) == want:
            break
    return held


def _in_turn(strata: list[list[_Group]], quotas: list[int]) -> tuple[list[_Group], list[_Group]]:
    """The groups that the quotas ask for, and all others, as a reserve for those that cannot be taken."""
    chosen = [group for stratum, quota in zip(strata, quotas, strict=True) for group in stratum[:quota]]
    return chosen, [group for stratum, quota in zip(strata, quotas, strict=True) for group in stratum[quota:]]
