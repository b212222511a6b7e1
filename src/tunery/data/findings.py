"""What ``tunery check`` says about examples: duplicates, conflicts, leaks, labels.

Nothing is changed or dropped here. A finding names the row it is about.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from tunery.protocols import Example

FindingKind = Literal["duplicate", "conflict", "leak", "label_variant", "imbalance", "few_rows"]
FEW_ROWS = 50  # training rows below which no method has much to go by
FEW_OF_LABEL = 5  # training rows of one label
IMBALANCE = 10  # most frequent label : rarest label


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth looking at."""

    kind: FindingKind
    file: str
    line: int
    message: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def normalise(text: str) -> str:
    r"""Equal for texts that differ only in width of characters, case and white space.

    >>> normalise(" Ｈello\tWORLD ")
    'hello world'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fingerprint(example: Example) -> bytes:
    """16 bytes that are equal for examples with the same input (normalised), in every process."""
    text = normalise(example.input_text)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def labels_of(example: Example) -> tuple[str, ...]:
    """The labels of an example; none for conversations and texts."""
    if example.label is None:
        return ()
    return example.label if isinstance(example.label, tuple) else (str(example.label),)


def find(splits: Mapping[str, Sequence[Example]], classes: bool = True) -> list[Finding]:
    """All findings, those about the same thing together.

    Args:
        splits: examples by split; ``train`` is the one that is looked at for leaks and label counts.
        classes: labels are classes; False where they are numbers to predict.
    """
    train = splits.get("train", ())
    found = [finding for examples in splits.values() for finding in repeats(examples)]
    found += leaks(splits)
    if classes:
        found += label_variants([example for examples in splits.values() for example in examples])
        found += label_counts(train)
    if 0 < len(train) < FEW_ROWS:
        message = f"only {len(train)} training rows: results will depend on chance; try several seeds"
        found.append(_at(train[0], "few_rows", message))
    return found


def repeats(examples: Iterable[Example]) -> list[Finding]:
    """Inputs that stand several times: with the same label or answer (duplicate), with other labels (conflict).

    Another answer to the same question is no conflict: there may be several good ones.
    """
    first: dict[bytes, Example] = {}
    found = []
    for example in examples:
        earlier = first.setdefault(fingerprint(example), example)
        if earlier is example:
            continue
        if earlier.label != example.label:
            message = f"label {_shown(example)}, but the same input has {_shown(earlier)} at {earlier.where}"
            found.append(_at(example, "conflict", message))
        elif earlier.tags != example.tags:
            found.append(_at(example, "conflict", f"the same words have other tags at {earlier.where}"))
        else:
            same = [m.content for m in earlier.messages] == [m.content for m in example.messages]
            same = same and (bool(example.messages) or earlier.references == example.references)
            other = "" if same else ", with another answer"
            found.append(_at(example, "duplicate", f"same input as {earlier.where}{other}"))
    return found


def leaks(splits: Mapping[str, Sequence[Example]]) -> list[Finding]:
    """Training rows whose input is also in another split."""
    held: dict[bytes, tuple[str, Example]] = {}
    for split, examples in splits.items():
        if split != "train":
            for example in examples:
                held.setdefault(fingerprint(example), (split, example))
    found = []
    for example in splits.get("train", ()) if held else ():
        split, other = held.get(fingerprint(example), ("", None))
        if other is not None:
            found.append(_at(example, "leak", f"this training row is also in {split}: {other.where}"))
    return found


def label_variants(examples: Iterable[Example]) -> list[Finding]:
    """Labels that differ only in spelling (``Positive `` and ``positive``): the rarer ones, at their first row."""
    counts: Counter[str] = Counter()
    first: dict[str, Example] = {}
    for example in examples:
        for label in labels_of(example):
            counts[label] += 1
            first.setdefault(label, example)
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
            found.append(_at(first[label], "label_variant", message))
    return found


def label_counts(examples: Iterable[Example]) -> list[Finding]:
    """Labels with very few training rows, and a strong imbalance between labels."""
    counts: Counter[str] = Counter()
    first: dict[str, Example] = {}
    for example in examples:
        for label in labels_of(example):
            counts[label] += 1
            first.setdefault(label, example)
    if len(counts) < 2:
        return []
    found = [
        _at(first[label], "few_rows", f"label {label!r} has only {count} training rows")
        for label, count in counts.items()
        if count < FEW_OF_LABEL
    ]
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many >= IMBALANCE * few:
        message = f"label {most!r} has {many} training rows, {least!r} {few}: look at f1_macro, not only at accuracy"
        found.append(_at(first[least], "imbalance", message))
    return found


def _spelling(label: str) -> str:
    """What is left of a label without case, white space, hyphens and underscores."""
    return "".join(char for char in normalise(label) if char not in " -_") or label


def _shown(example: Example) -> str:
    return ", ".join(map(repr, labels_of(example))) or "none"


def _at(example: Example, kind: FindingKind, message: str) -> Finding:
    return Finding(kind, example.file, example.line, message)
