"""From ``data.*`` of the configuration to examples in splits, with a record of where every row went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from tunery import registry
from tunery.config import DataConfig, Files
from tunery.data import policies
from tunery.data.columns import Columns
from tunery.data.findings import Finding
from tunery.data.ledger import Ledger
from tunery.data.read import BadRow, FileNames, Record, Records, paths, read
from tunery.data.rows import Rows, Store
from tunery.errors import ConfigError, DataError
from tunery.run import many
from tunery.run.augmentation import Augmentation
from tunery.run.cleaning import Cleaned, Cleaning
from tunery.run.dividing import check_keys, divide
from tunery.run.reading import Taker, begin
from tunery.rundir import sha256

LISTED = 10  # bad rows named in an error
SPLITS = ("train", "validation", "test")


@dataclass(slots=True)
class Dataset:
    """The examples of a run, and how they came to be."""

    splits: dict[str, Rows]
    format: str
    task: str
    ledger: Ledger
    notes: list[str] = field(default_factory=list)
    """What was decided without being told, in words for the user."""
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the bytes of every input file, by its name as given."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping in effect, {name tunery knows: name in the file}: ``data.columns`` plus what was guessed."""
    findings: list[Finding] = field(default_factory=list)
    """Repeats and leaks, those of dropped rows too."""


@dataclass(slots=True)
class _Part:
    """What was read for one split."""

    examples: Store
    bad: list[BadRow]
    columns: Columns
    cleaned: Cleaned = field(default_factory=Cleaned)


def load_dataset(
    data: DataConfig,
    task_name: str | None,
    seed: int,
    splits: Sequence[str] = SPLITS,
    sample: int | None = None,
) -> Dataset:
    """Read the files of ``data``, decide format and task, apply the policies, hold out validation rows.

    Args:
        data: the section ``data`` of a configuration.
        task_name: None for the task that is natural for the format.
        seed: of the rows held out; the same seed and rows give the same split.
        splits: which to read. Validation is held out of train if train is read and no file is given for it.
        sample: how many examples of each file can be read afterwards (``Rows.kept``); None: all.

    Raises ConfigError: no training file, a file given twice, a task that does not take the format.
    Raises DataError: a file cannot be read, no format fits, bad rows, repeats or leaks where the policy is error, no
    usable row, nothing to hold out.
    """
    check_keys(data)
    files = _files(data, splits)
    formats = _formats_of(task_name, data.format)
    cleaning, augmentation = Cleaning(data.clean), Augmentation(data.augment)
    if augmentation.steps:
        sample = None  # every training row is read again
    # missing files are found before any is read
    streams = {split: read(names, data.encoding, split) for split, names in files.items()}
    ledger, notes = Ledger(), cleaning.notes
    parts: dict[str, _Part] = {}
    columns = Columns(data.format or "")
    for split, stream in streams.items():
        part = _load(stream, data, columns.format or None, formats, True, sample, cleaning, other=bool(parts))
        if not parts:
            columns = part.columns
        notes += [note if split == "train" else f"{split}: {note}" for note in part.columns.notes]
        notes += stream.notes
        _enter(ledger, part, split)
        notes += _told(part.cleaned, split)
        parts[split] = part
    bad = [row for part in parts.values() for row in part.bad]
    refuse_bad(bad, ledger.rows, data.on_bad_row)
    for split, part in parts.items():
        if not len(part.examples):
            part.cleaned.refuse(split)
            raise _nothing_left(part.bad, paths(files[split])[0])
    task = task_name or _natural_task(columns.format)
    result = policies.apply({split: Rows(part.examples) for split, part in parts.items()}, data, ledger)
    if "train" in result.splits:
        divide(result, splits, data, seed, task, ledger)
    notes += result.notes
    if bad:
        rows = "1 bad row" if len(bad) == 1 else f"{len(bad)} bad rows"
        notes.append(f"{rows} dropped (data.on_bad_row=drop)")
    if augmentation.steps and "train" in result.splits:
        notes.append(augmentation.add(result.splits, seed))
    hashes = {name: value for stream in streams.values() for name, value in stream.hashes().items()}
    hashes |= {name: sha256(Path(name)) for name in augmentation.files}
    mapping = dict(data.columns) | {known: column for column, known in columns.rename.items()}
    return Dataset(result.splits, columns.format, task, ledger, notes, hashes, mapping, result.findings)


def load_examples(
    files: FileNames, data: DataConfig, need_target: bool, cleaned: Cleaned | None = None
) -> tuple[Rows, list[BadRow], str, list[str]]:
    """Examples of files that belong to no run yet (``eval --data``, ``predict --input``), in file order, cleaned as
    ``data.clean`` says. Only rows with targets may be left out by that; ``cleaned`` gets to know them.

    → examples, bad rows (see ``refuse_bad``), format, notes. ``data.format`` and ``data.columns`` say how
    to read them. Raises DataError: a file cannot be read, or its columns do not fit.
    """
    stream = read(files, data.encoding, "test")
    part = _load(stream, data, data.format, None, need_target, cleaning=Cleaning(data.clean), other=True)
    if cleaned is not None:
        cleaned.dropped, cleaned.changed = part.cleaned.dropped, part.cleaned.changed
    return Rows(part.examples), part.bad, part.columns.format, part.columns.notes + stream.notes


def changed_file(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first file that was read and is another one now, is gone, or is new (``Dataset.hashes``)."""
    return min((file for file in before.keys() | now.keys() if before.get(file) != now.get(file)), default=None)


def refuse_bad(bad: Sequence[BadRow], rows: int, policy: str) -> None:
    """Raises one DataError for all bad rows, naming the first ten, unless ``policy`` is "drop"."""
    if not bad or policy == "drop":
        return
    listed = "; ".join(f"{row.where}: {row.problem}" for row in bad[:LISTED])
    more = f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    count = "1 row" if len(bad) == 1 else f"{len(bad)} of {rows} rows"
    advice = f"{bad[0].hint}; or leave" if bad[0].hint else "correct them, or leave"
    raise DataError(
        f"{count} cannot be used: {listed}{more}",
        f"{advice} such rows out with data.on_bad_row=drop",
        bad[0].where,
    )


def _files(data: DataConfig, splits: Sequence[str]) -> dict[str, FileNames]:
    """The files of every split that has some."""
    found: dict[str, FileNames] = {}
    for split in splits:
        given: Files = getattr(data, split)
        names = paths(given) if given is not None else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is named twice", "name every file once", f"data.{split}")
        if given is not None and names:
            found[split] = given
    if sum("-" in paths(names) for names in found.values()) > 1:
        raise ConfigError("standard input can be only one split", "name files for the others", "data")
    if "train" in splits and "train" not in found:
        raise ConfigError("no training data", "name a file: data.train=FILE", "data.train")
    if not found:
        raise ConfigError("no data files", f"name one: data.{splits[0]}=FILE", f"data.{splits[0]}")
    return found


def _formats_of(task_name: str | None, format_name: str | None) -> tuple[str, ...] | None:
    """Formats that exist and that the task takes; None if no task is named. Raises ConfigError."""
    if task_name is None:
        return None
    taken: tuple[str, ...] = registry.get("task", task_name).formats
    if format_name and format_name in registry.names("format") and format_name not in taken:
        natural = registry.get("format", format_name).task
        raise ConfigError(
            f"task {task_name} does not take the format {format_name}, but {', '.join(taken)}",
            f"choose task={natural} or another data.format",
            "data.format",
        )
    return tuple(name for name in taken if name in registry.names("format"))


def _natural_task(format_name: str) -> str:
    return str(registry.get("format", format_name).task)


def _load(
    stream: Records,
    data: DataConfig,
    format_name: str | None,
    formats: Sequence[str] | None,
    need_target: bool,
    sample: int | None = None,
    cleaning: Cleaning | None = None,
    other: bool = False,
) -> _Part:
    """Rows become examples one by one: raw rows are not kept beside them."""
    head, columns_seen, first = begin(stream)
    bad = [record for record in head if isinstance(record, BadRow)]
    if first is None:  # all rows of the file(s) are bad
        fallback = Columns(format_name or data.format or "")
        if not fallback.format:
            raise _nothing_left(bad, "")
        return _Part(Store(), bad, fallback)
    taker = Taker.of(columns_seen, data, format_name, formats, need_target, first.where, cleaning, other)
    part = _Part(Store(sample), [], taker.columns, taker.cleaned)

    def take(record: Record, into: Store, bad: list[BadRow]) -> None:
        for found in taker.take(record):
            if isinstance(found, BadRow):
                bad.append(found)
            else:
                into.append(found)

    if sample is not None and many.worth_it(stream.sources) and not data.clean:
        part.examples, part.bad = many.load(head, stream, take, sample)
        return part
    for record in chain(head, stream):
        take(record, part.examples, part.bad)
    return part


def _enter(ledger: Ledger, part: _Part, split: str) -> None:
    for file, lines in Rows(part.examples).by_file():
        ledger.enter_all(file, lines, f"used:{split}", split)
    for row in part.bad:
        ledger.add(row.where, "dropped:bad", row.problem, split)
    part.cleaned.mark(ledger, split)


def _told(cleaned: Cleaned, split: str) -> Iterator[str]:
    if cleaned.changed:
        yield f"{split}: cleaning changed {_rows(len(cleaned.changed))} (tunery show --before-after)"
    for step, count in Counter(step for _, step, _ in cleaned.dropped).items():
        yield f"{split}: {_rows(count)} left out by step {step}"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _nothing_left(bad: Iterable[BadRow], where: str) -> DataError:
    rows = list(bad)
    first = rows[0] if rows else BadRow(where, "no rows")
    return DataError(f"none of {len(rows)} rows can be used; the first: {first.problem}", first.hint, first.where)
