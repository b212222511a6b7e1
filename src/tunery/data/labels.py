"""What ``data.label_separator`` and ``data.labels`` do to the labels of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunery.errors import DataError
from tunery.protocols import Example, Row

COLUMN = "label"
_SHOWN = 5  # labels of the mapping that an error names


def split(row: Row, separator: str | None) -> Row:
    """The row with its label cell as a list of labels: ``a|b`` → ``["a", "b"]``. Other rows stay as they are."""
    if separator is None:
        return row
    cell = row.values.get(COLUMN)
    if not isinstance(cell, str) or not cell.strip() or cell.lstrip().startswith("["):
        return row
    parts = [part.strip() for part in cell.split(separator)]
    return Row({**row.values, COLUMN: [part for part in parts if part]}, row.file, row.line)


def renamed(example: Example, names: Sequence[str] | Mapping[str, str] | None, strict: bool = True) -> Example:
    """The example with labels and tags under their new names; a list of names orders them and renames nothing.

    Raises DataError for a label that the mapping does not have, unless it is not ``strict`` (rows to predict).
    """
    if not isinstance(names, Mapping):
        return example
    unknown = [label for label in (*_labels(example), *example.tags) if label not in names]
    if unknown and strict:
        known = ", ".join(map(repr, list(names)[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
        problem = f"label {unknown[0]!r} is not in data.labels ({known})"
        raise DataError(problem, f"add {unknown[0]}: NAME to it", example.where)
    new = tuple(dict.fromkeys(names.get(label, label) for label in _labels(example)))
    label = new if isinstance(example.label, tuple) or not new else new[0]
    return replace(example, label=label or example.label, tags=tuple(names.get(tag, tag) for tag in example.tags))


def _labels(example: Example) -> tuple[str, ...]:
    if example.label is None:
        return ()
    return example.label if isinstance(example.label, tuple) else (str(example.label),)
