"""What a configuration would train on: rows, splits, tokens, targets and everything odd about them.

Nothing is trained and no weights are loaded, only the tokenizer. Where training would stop at the first
row it cannot use, this goes on with the good ones and reports all of them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tunery import registry, scoring
from tunery.config import Config
from tunery.data import findings, policies, soft
from tunery.data.encoded import outline
from tunery.data.ledger import Ledger
from tunery.data.rows import Rows
from tunery.errors import DataError
from tunery.models.load import Base, open_base
from tunery.protocols import Example, Method, Task
from tunery.run import build
from tunery.run.dataset import SPLITS, Dataset, load_dataset
from tunery.run.encode import Split, encode_split, max_length, refuse_long_answers
from tunery.run.prepare import weighed
from tunery.run.records import pulling
from tunery.rundir import writing

REFUSED = 3
"""Exit code where ``train`` would refuse the data."""
SAMPLE = 20_000
"""Rows of a split with more than ``rows.ALL`` that are encoded; their tokens are an estimate for all."""
RENDERED = 500
"""Rows of a split whose questions are rendered alone too, to be compared."""
_UNCUT = 1 << 30  # tokens: no row is longer
_DROP_NOTE = "(data.on_bad_row=drop)"


@dataclass(slots=True)
class Inspection:
    """All that training would know before it loads weights."""

    config: Config
    """As given, but lenient: bad and (with ``on_long=error``) too long rows are dropped, so that all are found."""
    dataset: Dataset
    task: Task
    base: Base
    length: int
    refusal: DataError | None = None
    """What ``Task.fit`` says against rows that had to be left out."""


def inspect(config: Config, splits: Sequence[str] = SPLITS, sample: int | None = None) -> Inspection:
    """Read the data, fit the task, open the tokenizer. Raises TuneryError as ``train`` does.

    ``sample``: how many examples of a split with very many can be read afterwards (``Rows.kept``).

    Raises DataError only where no usable rows are left.
    """
    lenient = _lenient(config)
    dataset = load_dataset(lenient.data, config.task_name, config.train.seed, splits, sample)
    if config.data.on_bad_row == "error":
        dataset.notes = [note for note in dataset.notes if not note.endswith(_DROP_NOTE)]
    section = config.task or registry.config_class("task", dataset.task).model_validate({"name": dataset.task})
    task: Task = registry.get("task", dataset.task)(section)
    refusal = _fit(task, dataset, config.data.label_names)
    dataset.notes += weighed(task, config)
    if config.eval.metrics:
        scoring.check(config.eval.metrics, task.kinds)
    base = open_base(config.model, progress=pulling)
    build.check_family(task, base)
    refuse_long_answers(config, task, base)
    method: Method = registry.get("method", config.method_name)(config.method)
    method.prepare(task, base.tokenizer)
    length = max_length(config.data.max_length, task, base)
    return Inspection(lenient, dataset, task, base, length, refusal)


def check(config: Config, ledger_file: str | Path | None = None) -> dict[str, Any]:
    """What ``tunery check --json`` prints, and ``exit_code``: 0, or 3 where ``train`` would refuse the data.

    Args:
        config: as for ``train``.
        ledger_file: CSV to write with the bucket of every input row.
    """
    # texts are needed to tell which are nearly the same
    found = inspect(config, sample=None if config.data.near_duplicates is True else SAMPLE)
    ledger = found.dataset.ledger
    sampled = {name: len(rows) / len(kept) for name, rows in found.dataset.splits.items() if len(kept := rows.kept())}
    splits = {
        name: encode_split(name, rows.kept(), found.task, found.base.tokenizer, found.config.data, found.length, ledger)
        for name, rows in found.dataset.splits.items()
    }
    if ledger_file is not None:
        write_ledger(ledger, Path(ledger_file))
    lengths = {name: _lengths(split, found) for name, split in splits.items()}
    refused = _refused(found, config)
    summary = ledger.summary()
    return {
        **{key: summary[key] for key in ("rows_read", "used", "splits", "dropped")},
        "findings": list(_findings(found, splits)),
        "supervised_tokens": sum(round(split.supervised * sampled[name]) for name, split in splits.items()),
        "truncated": sum(round(split.truncated * sampled[name]) for name, split in splits.items()),
        "windows": sum(round(split.windows * sampled[name]) for name, split in splits.items()),
        "estimated": any(factor > 1 for factor in sampled.values()),
        "cleaned": summary.get("cleaned", 0),
        "augmented": summary.get("augmented", 0),
        "labels": _label_counts(found, splits),
        "lengths": quantiles([n for part in lengths.values() for n in part]),
        "max_length": found.length,
        "format": found.dataset.format,
        "columns": found.dataset.columns,
        "task": found.task.name,
        "model": found.base.name,
        "details": {name: _details(split, lengths[name], sampled[name]) for name, split in splits.items()},
        "notes": found.dataset.notes,
        "refused": refused.as_dict() if refused else None,
        "exit_code": REFUSED if refused else 0,
    }


def write_ledger(ledger: Ledger, path: Path) -> None:
    """CSV with the columns where, split, bucket, note. Raises ResourceError."""
    with writing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["where", "split", "bucket", "note"])
        table.writerows([e.where, e.split, e.bucket, e.note] for e in ledger.entries())


def quantiles(lengths: Sequence[int]) -> dict[str, int]:
    """Of tokens per row; nearest ranks, so that each is the length of a row.

    >>> quantiles([3, 1, 2])
    {'min': 1, 'median': 2, 'p95': 3, 'max': 3}
    """
    ordered = sorted(lengths)
    last = len(ordered) - 1
    shares = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: ordered[round(share * last)] for name, share in shares.items()} if ordered else {}


# ------------------------------------------------------------------------------------------------ leniency


def _lenient(config: Config) -> Config:
    long = "drop" if config.data.on_long == "error" else config.data.on_long
    found = {key: "warn" for key in set(policies.KEYS.values()) if getattr(config.data, key) == "error"}
    data = config.data.model_copy(update={"on_bad_row": "drop", "on_long": long, **found})
    return config.model_copy(update={"data": data})


def _fit(task: Task, dataset: Dataset, labels: Sequence[str] | None) -> DataError | None:
    """Fit on the rows that can be fitted; those that cannot go to the ledger. Returns what training would say."""
    train: Sequence[Example] = dataset.splits["train"]
    if len(kept_rows := dataset.splits["train"].kept()) < len(train):
        # of very many rows a sample, and one of every label
        train = [*dataset.splits["train"].store.first_of_label, *kept_rows]
    try:
        task.fit(train, labels)
    except DataError as error:
        problems = [(example, task.check(example)) for example in train]
        kept = [example for example, problem in problems if problem is None]
        if not kept or len(kept) == len(train):
            raise
        for example, problem in problems:
            if problem is not None:
                dataset.ledger.move(example.where, "dropped:bad", problem, split="train")
        if not isinstance(train, Rows):
            raise
        dataset.splits["train"] = train.take([i for i, (_, problem) in enumerate(problems) if problem is None])
        task.fit(kept, labels)
        return error
    return None


def _refused(found: Inspection, config: Config) -> DataError | None:
    """What training would say, in its own order: bad rows, rows the task cannot fit, too long rows."""
    dropped = list(found.dataset.ledger.entries(dropped=True))
    bad = [entry for entry in dropped if entry.bucket == "dropped:bad"]
    if bad and config.data.on_bad_row == "error":
        rows = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
        hint = "correct them, or leave such rows out with data.on_bad_row=drop"
        return DataError(f"{rows} cannot be used; the first: {bad[0].note}", hint, bad[0].where)
    for finding in found.dataset.findings:
        key = policies.KEYS.get(finding.kind, "")
        if key and finding.kind != "near_duplicate" and getattr(config.data, key) == "error":
            where = f"{finding.file}:{finding.line}"
            return DataError(finding.message, f"correct it, or set data.{key}=drop or warn", where)
    if found.refusal is not None:
        return found.refusal
    long = [entry for entry in dropped if entry.bucket == "dropped:too_long"]
    if long and config.data.on_long == "error":
        rows = "1 row is" if len(long) == 1 else f"{len(long)} rows are"
        hint = "raise data.max_length or set data.on_long=truncate"
        return DataError(f"{rows} longer than {found.length} tokens (data.on_long=error)", hint, long[0].where)
    return None


# ------------------------------------------------------------------------------------------------ findings


def _findings(found: Inspection, splits: Mapping[str, Split]) -> Iterator[dict[str, Any]]:
    for entry in found.dataset.ledger.entries(dropped=True):
        kind = {"dropped:bad": "bad_row", "dropped:too_long": "too_long"}.get(entry.bucket)
        if kind is not None:
            yield {"kind": kind, "file": entry.file, "line": entry.line, "message": entry.note}
    yield from _cut(found, splits)
    if found.task.output == "text":
        yield from _template(found, splits)
    classes = "numbers" not in found.task.kinds
    for finding in [*found.dataset.findings, *findings.labels(_all_rows(found, splits), classes)]:
        if classes or finding.kind not in ("label_variant", "conflict"):
            yield finding.as_dict()


def _cut(found: Inspection, splits: Mapping[str, Split]) -> Iterator[dict[str, Any]]:
    """One finding a split: that tokens are cut off is a matter of max_length, not of a single row."""
    for name, split in splits.items():
        first = next((split.examples[index] for index, _, truncated in outline(split.rows) if truncated), None)
        if first is not None:
            message = f"{split.truncated} of {len(split.sources)} {name} rows are cut to {found.length} tokens"
            yield _about(first, "truncated", message)


def _template(found: Inspection, splits: Mapping[str, Split]) -> Iterator[dict[str, Any]]:
    """What is generated from must be a prefix of what is trained on, and the answer's end must be learnt.

    Both are faults of a template, not of a row: one finding each, at the first row that shows it.
    """
    stops = set(found.task.stop_ids(found.base.tokenizer))
    faults: dict[str, list[Example]] = {"prompt_mismatch": [], "no_end": []}
    for split in splits.values():
        for row in islice(split.rows, RENDERED):
            example = split.examples[row.row]
            if not example.messages or example.messages[-1].role != "assistant":
                continue
            prompt = soft.prompt(found.task, example, found.base.tokenizer, _UNCUT)
            if row.answer is None:
                same, answer = prompt[: len(row.ids)] == row.ids[: len(prompt)], (row.labels or [])[len(prompt) :]
            else:
                same, answer = row.truncated or prompt == row.ids, row.answer
            if not same:
                faults["prompt_mismatch"].append(example)
            if not row.truncated and stops.isdisjoint(answer):
                faults["no_end"].append(example)
    messages = {
        "prompt_mismatch": "the question becomes other tokens with its answer than without: the tuned model will be "
        "asked in a way it has not learnt; change task.template",
        "no_end": "the answer ends without a token that stops generation; change task.template",
    }
    for kind, examples in faults.items():
        if examples:
            yield _about(examples[0], kind, f"{messages[kind]} ({len(examples)} rows)")


def _about(example: Example, kind: str, message: str) -> dict[str, Any]:
    return {"kind": kind, "file": example.file, "line": example.line, "message": message}


# ------------------------------------------------------------------------------------------------- numbers


def _lengths(split: Split, found: Inspection) -> list[int]:
    """Tokens of every row as it would be uncut: that is what max_length is chosen by."""
    sizes: dict[int, int] = {}
    cut = set()
    for index, size, truncated in outline(split.rows):
        if index in sizes or truncated or size == found.length:
            cut.add(index)
        sizes[index] = size
    for index in cut:
        rows = soft.encode(found.task, split.examples[index], found.base.tokenizer, _UNCUT)
        sizes[index] = len(rows[0].ids)
    return list(sizes.values())


def _details(split: Split, lengths: Sequence[int], factor: float) -> dict[str, Any]:
    """``factor``: all rows over those that were encoded; above 1 the numbers of tokens and cuts are estimates."""
    return {
        "rows": round(len(split.sources) * factor),
        "augmented": split.copies,
        "tokens": round(sum(size for _, size, _ in outline(split.rows)) * factor),
        "supervised_tokens": round(split.supervised * factor),
        "truncated": round(split.truncated * factor),
        "windows": round(split.windows * factor),
        "lengths": quantiles(lengths),
        "estimated_from": len(split.sources) if factor > 1 else None,
    }


def _all_rows(found: Inspection, splits: Mapping[str, Split]) -> dict[str, Rows]:
    """The rows that would be used; of a split that was sampled those that were read, whose labels are known, too."""
    given = found.dataset.splits
    return {name: rows if len(rows.kept()) < len(rows) else splits[name].sources for name, rows in given.items()}


def _label_counts(found: Inspection, splits: Mapping[str, Split]) -> dict[str, dict[str, int]]:
    """{split: {label: rows}}, the most frequent first; empty for tasks without classes."""
    if "numbers" in found.task.kinds:
        return {}
    counts = {name: findings.count_labels(rows) for name, rows in _all_rows(found, splits).items()}
    for name, split in splits.items():
        if split.examples.store.tagged:
            counts[name].update(tag for example in split.sources for tag in example.tags)
    return {name: dict(counter.most_common()) for name, counter in counts.items() if counter}
