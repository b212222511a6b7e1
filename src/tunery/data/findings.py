"""What is odd about examples: duplicates, conflicts, leaks, labels.

Nothing is changed or dropped here. A finding names the row it is about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from tunery.data import near
from tunery.data.rows import Rows, as_labels, normalise
from tunery.protocols import Example

FindingKind = Literal[
    "duplicate", "conflict", "leak", "near_duplicate", "near_leak", "label_variant", "imbalance", "few_rows"
]
FEW_ROWS = 50  # training rows below which no method has much to go by
FEW_OF_LABEL = 5  # training rows of one label
IMBALANCE = 10  # most frequent label : rarest label
ORDER = ("train", "validation", "test")
"""Of splits: a row that is in two of them leaks from the later one into the earlier."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth looking at."""

    kind: FindingKind
    file: str
    line: int
    message: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Repeat:
    """A row that stands elsewhere too."""

    kind: FindingKind
    split: str
    place: int
    """Of the row in its split."""
    other: str
    """The other row, file:line."""
    message: str
    same: bool = True
    """The answer is the same, too."""
    own: bool = False
    """The other row is in the same file, which the user has named for both splits."""

    def finding(self, splits: Mapping[str, Rows]) -> Finding:
        return Finding(self.kind, *splits[self.split].place(self.place), self.message)


def labels(splits: Mapping[str, Rows], classes: bool = True) -> list[Finding]:
    """What is odd about the number of labels and of rows."""
    train = splits.get("train")
    found: list[Finding] = []
    if classes and train:
        found += label_counts(train)
    if train and len(train) < FEW_ROWS:
        message = f"only {len(train)} training rows: results will depend on chance; try several seeds"
        found.append(Finding("few_rows", *train.place(0), message))
    return found


def repeats(splits: Mapping[str, Rows]) -> Iterator[Repeat]:
    """Inputs that stand several times in a split: with the same label or answer (duplicate), with other labels
    (conflict).

    Another answer to the same question is no conflict: there may be several good ones.
    """
    for split, rows in splits.items():
        _, first, inverse = np.unique(rows.inputs, return_index=True, return_inverse=True)
        earlier = first[inverse]
        answers = rows.answers
        for place in np.flatnonzero(earlier != np.arange(len(rows))).tolist():
            other = int(earlier[place])
            where = rows.where(other)
            if rows.label(other) != rows.label(place):
                said, there = _shown(rows.label(place)), _shown(rows.label(other))
                message = f"label {said}, but the same input has {there} at {where}"
                yield Repeat("conflict", split, place, where, message)
            elif answers[other] != answers[place] and rows.store.tagged:
                yield Repeat("conflict", split, place, where, f"the same words have other tags at {where}")
            else:
                same = bool(answers[other] == answers[place])
                message = f"same input as {where}{'' if same else ', with another answer'}"
                yield Repeat("duplicate", split, place, where, message, same)


def leaks(splits: Mapping[str, Rows]) -> Iterator[Repeat]:
    """Rows whose input is also in a split that they must not know: training rows that are in another one, validation
    rows that are in test.
    """
    for name, rows in splits.items():
        for other in ORDER[ORDER.index(name) + 1 :]:
            held = splits.get(other)
            if held is None or not len(held):
                continue
            keys, first = np.unique(held.inputs, return_index=True)
            there = dict(zip(keys.tolist(), first.tolist(), strict=True))
            inputs = rows.inputs
            for place in np.flatnonzero(np.isin(inputs, keys)).tolist():
                where = held.where(there[int(inputs[place])])
                kind = "training row" if name == "train" else f"{name} row"
                own = rows.place(place)[0] == held.place(there[int(inputs[place])])[0]
                yield Repeat("leak", name, place, where, f"this {kind} is also in {other}: {where}", own=own)


def near_repeats(splits: Mapping[str, Rows]) -> tuple[list[Repeat], dict[str, list[int]]]:
    """Rows that are nearly the same as others → what was found (of each row once that it repeats one of its split, and
    once that it leaks), and a number for each row of each split that rows share with those they are like.
    """
    places = [(split, place) for split, rows in splits.items() for place in range(len(rows))]
    inputs = np.concatenate([rows.inputs for rows in splits.values()]) if places else np.empty(0, "u8")
    _, first, inverse = np.unique(inputs, return_index=True, return_inverse=True)
    earlier = first[inverse]
    order = np.argsort(earlier, kind="stable")
    ends = np.flatnonzero(np.diff(earlier[order])) + 1
    equal = {int(rows[0]): rows.tolist() for rows in np.split(order, ends) if len(rows) > 1}
    examples = _Joined(list(splits.values()))
    duplicates: dict[int, Repeat] = {}
    leaking: dict[int, Repeat] = {}

    def links() -> Iterator[tuple[int, int]]:
        """Of rows that are nearly the same; what is found on the way is noted."""
        for pair in near.pairs(examples, (earlier != np.arange(len(places))).tolist()):
            yield pair.earlier, pair.later
            (split, place), (other, later) = places[pair.earlier], places[pair.later]
            like = f"nearly the same input ({pair.overlap:.0%})"
            if split == other and pair.later not in duplicates:
                where = splits[split].where(place)
                repeat = Repeat("near_duplicate", other, later, where, f"{like} as {where}")
                duplicates[pair.later] = repeat
            sides = [equal.get(row, [row]) for row in (pair.earlier, pair.later)]
            for rows, others in (sides, sides[::-1]):
                held = {places[row][0]: places[row][1] for row in reversed(others)}
                for row in rows:
                    split, place = places[row]
                    later_splits = (name for name in ORDER[ORDER.index(split) + 1 :] if name in held)
                    if row not in leaking and (into := next(later_splits, None)):
                        where = splits[into].where(held[into])
                        leaking[row] = Repeat("near_leak", split, place, where, f"{like} is in {into}: {where}")

    numbers = near.clusters(len(places), chain(links(), enumerate(earlier.tolist())))
    found = [repeat for _, repeat in sorted([*duplicates.items(), *leaking.items()], key=lambda item: item[0])]
    groups: dict[str, list[int]] = {split: [] for split in splits}
    for (split, _), number in zip(places, numbers, strict=True):
        groups[split].append(number)
    return found, groups


class _Joined(Sequence[Example]):
    """The rows of several splits, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._places = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        part, number = self._places[place]
        return part[number]


def label_variants(splits: Iterable[Rows]) -> list[Finding]:
    """Labels that differ only in spelling (``Positive `` and ``positive``): the rarer ones, at their first row."""
    counts, first = _counted(splits)
    spellings: dict[str, list[str]] = {}
    for label in counts:
        spellings.setdefault(_spelling(label), []).append(label)
    found = []
    for variants in spellings.values():
        common, *rare = sorted(variants, key=lambda label: (-counts[label], label))
        for label in rare:
            message = (
                f"label {label!r} ({counts[label]} rows) differs only in spelling from {common!r} ({counts[common]})"
            )
            found.append(Finding("label_variant", *first[label], message))
    return found


def label_counts(rows: Rows) -> list[Finding]:
    """Labels with very few training rows, and a strong imbalance between labels."""
    counts, first = _counted([rows])
    if len(counts) < 2:
        return []
    found = [
        Finding("few_rows", *first[label], f"label {label!r} has only {count} training rows")
        for label, count in counts.items()
        if count < FEW_OF_LABEL
    ]
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many >= IMBALANCE * few:
        message = f"label {most!r} has {many} training rows, {least!r} {few}: look at f1_macro, not only at accuracy"
        found.append(Finding("imbalance", *first[least], message))
    return found


def count_labels(rows: Rows) -> Counter[str]:
    """Rows of every label, in the order in which the labels come."""
    return _counted([rows])[0]


def _counted(splits: Iterable[Rows]) -> tuple[Counter[str], dict[str, tuple[str, int]]]:
    """→ rows of each label, and the place of its first."""
    counts: Counter[str] = Counter()
    first: dict[str, tuple[str, int]] = {}
    for rows in splits:
        if not any(as_labels(label) for label in rows.store.label_sets):
            continue
        numbers, places, sizes = np.unique(rows.label_numbers, return_index=True, return_counts=True)
        for i in np.argsort(places):
            for label in as_labels(rows.store.label_sets[int(numbers[i])]):
                first.setdefault(label, rows.place(int(places[i])))
                counts[label] += int(sizes[i])
    return counts, first


def _spelling(label: str) -> str:
    """What is left of a label without case, white space, hyphens and underscores."""
    return "".join(char for char in normalise(label) if char not in " -_") or label


def _shown(label: Any) -> str:
    return ", ".join(map(repr, as_labels(label))) or "none"
