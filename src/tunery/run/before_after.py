"""What ``data.clean`` and ``data.augment`` make of the rows: ``tunery show --before-after``. No model is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tunery import registry
from tunery.config import Config
from tunery.data import policies
from tunery.data.ledger import Entry
from tunery.errors import ConfigError
from tunery.protocols import Example
from tunery.run.dataset import SPLITS, Dataset, load_dataset

_POLICIES = sorted(set(policies.KEYS.values()))
Texts = list[list[str]]
"""[name, text] of the texts of a row."""


def before_after(config: Config, rows: int, split: str = "train") -> dict[str, Any]:
    """The first ``rows`` rows of a split that are changed, copied or left out, before and after.

    Rows that cannot be used are left out (``check`` tells about them), but not those that cleaning emptied.

    Raises ConfigError: neither cleaning nor augmentation, no such split.
    """
    if not (config.data.clean or config.data.augment):
        raise ConfigError("nothing changes the rows", "set data.clean or data.augment, see docs/data.md", "data.clean")
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}", registry.near(split, list(SPLITS)), "--split")
    strict = {key: "warn" for key in _POLICIES if getattr(config.data, key) == "error"}
    after = _load(config, strict)
    if split not in after.splits:
        hint = f"there are: {', '.join(after.splits)}; or set data.{split}=FILE"
        raise ConfigError(f"no {split} rows", hint, "--split")
    # every row as it was, whatever becomes of it
    before = _load(config, {"clean": [], "augment": [], "near_duplicates": False} | dict.fromkeys(_POLICIES, "warn"))
    originals = {example.where: example for examples in before.splits.values() for example in examples}
    found = list(_changed(after, split, originals))
    return {
        "split": split,
        "rows": found[:rows],
        "changed": sum(row["after"] not in (None, row["before"]) for row in found),
        "augmented": sum(len(row["copies"]) for row in found),
        "dropped": Counter(row["dropped"].partition(":")[0] for row in found if row["dropped"]),
        "notes": after.notes,
    }


def _load(config: Config, changes: dict[str, Any]) -> Dataset:
    data = config.data.model_copy(update={"on_bad_row": "drop", **changes})
    return load_dataset(data, config.task_name, config.train.seed)


def _changed(found: Dataset, split: str, originals: dict[str, Example]) -> Iterator[dict[str, Any]]:
    """In the order of the files."""
    examples = {example.where: example for example in found.splits[split] if not example.copy}
    copies: dict[str, list[dict[str, Any]]] = {}
    for example in found.splits[split]:
        if example.copy:
            copies.setdefault(example.where, []).append({"step": example.copy, "texts": _texts(example)})
    for entry in found.ledger.entries():
        original, now = originals.get(entry.where), examples.get(entry.where)
        if original is None or not _belongs(entry, split):
            continue
        before, after = _texts(original), None if now is None else _texts(now)
        if before != after or entry.where in copies:
            yield {
                "where": entry.where,
                "before": before,
                "after": after,
                "dropped": "" if now else f"{entry.bucket.removeprefix('dropped:')}: {entry.note}",
                "copies": copies.get(entry.where, []),
            }


def _belongs(entry: Entry, split: str) -> bool:
    """Used in the split, or dropped from the split's own files."""
    return entry.bucket == f"used:{split}" or (entry.bucket.startswith("dropped:") and entry.split == split)


def _texts(example: Example) -> Texts:
    if example.messages:
        return [[message.role, message.content] for message in example.messages]
    texts = [["text", example.text]]
    if example.text_pair is not None:
        texts.append(["text_pair", example.text_pair])
    return texts + [["answer", text] for text in example.references if example.text_pair is not None]
