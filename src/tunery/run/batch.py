"""``tunery batch``: a record for every row of a large file, by a process that may be killed at any moment.

Rows are read one by one and predicted in windows of a fixed number of rows, sorted by length inside a window. What was
predicted is appended to the output, and only then a small file beside it says how far the output is good. A process
that begins again cuts off what a killed one wrote beyond that, and goes on with the next window. So windows have the
same rows whenever they are computed, and the output is the same to the byte as that of a process that was never killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from tunery import rundir
from tunery.data import inputs
from tunery.data.read import BadRow, paths, read
from tunery.errors import ConfigError, DataError, ModelError, ResourceError
from tunery.generate.engine import Sampling
from tunery.protocols import Example
from tunery.run import reading
from tunery.run import train as training
from tunery.run.records import records, say

if TYPE_CHECKING:
    from tunery.run.run import Run

SCHEMA_VERSION = 1
BATCHES = 8
"""A window is so many batches of ``eval.batch_size`` rows."""
TELL = 10.0
"""Seconds between notes on how far it is."""
_CHUNK = 1 << 20
Item = Example | BadRow


@dataclass(slots=True)
class State:
    """How far an output is good, and what it is made of: ``OUTPUT.state.json``."""

    input: dict[str, str]
    """SHA-256 of every file, by its absolute name."""
    run: str
    """SHA-256 of the run's weights and of its configuration."""
    sampling: dict[str, Any]
    window: int
    """Rows computed together."""
    rows: int = 0
    bad: int = 0
    """Of them, those that could not be predicted."""
    bytes: int = 0
    sha256: str = ""
    """Of the first ``bytes`` bytes of the output."""
    finished: bool = False
    schema_version: int = SCHEMA_VERSION


def score(
    run: Run,
    files: str | Sequence[str],
    output: Path,
    sampling: Sampling | None = None,
    restart: bool = False,
    on_bad_row: Literal["record", "error"] = "record",
) -> dict[str, Any]:
    """Predict every row of the files → ``run``, ``input``, ``output``, ``rows``, ``bad``, ``began_at``, ``seconds``.

    Args:
        output: JSONL; ``OUTPUT.state.json`` beside it tells how far it is.
        restart: begin anew whatever stands there.
        on_bad_row: what becomes of a row that cannot be read or does not fit: a record with an ``error``, or the end.

    Raises DataError: a file cannot be read; a bad row, where that is an error. Raises ConfigError: input, run or
    sampling are others than those that the output was begun with. Raises ResourceError: the output cannot be written,
    or another process writes it.
    """
    began = time.monotonic()
    names = paths(files)
    if "-" in names:
        raise ConfigError("standard input cannot be read a second time", "save it as a file", "--input")
    sampling = sampling or Sampling(max_new_tokens=run.config.eval.max_new_tokens)
    stream = read(files, run.config.data.encoding, "test")
    wanted = State(
        input={inputs.absolute(name): digest for name, digest in stream.hashes().items()},
        run=_identity(run),
        sampling=asdict(sampling),
        window=BATCHES * run.config.eval.batch_size,
    )
    with _opened(output) as out:
        state, digest = _where(output, out, wanted, restart)
        first = state.rows
        if not state.finished:
            if first:
                say(f"going on at row {first + 1} of {output}")
            _go_on(run, reading.to_predict(stream, run.config.data), out, output, state, digest, sampling, on_bad_row)
    return {
        "run": str(run.path),
        "input": names[0] if len(names) == 1 else names,
        "output": str(output),
        "rows": state.rows,
        "bad": state.bad,
        "began_at": first,
        "seconds": round(time.monotonic() - began, 3),
    }


# ------------------------------------------------------------------------------------------- where it stands


def state_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.state.json")


def _identity(run: Run) -> str:
    config = rundir.sha256(run.dir.config_file)
    return hashlib.sha256(f"{run.dir.weights_hash()} {config}".encode()).hexdigest()


@contextlib.contextmanager
def _opened(output: Path) -> Iterator[IO[bytes]]:
    """The output for reading and appending, for one process alone."""
    import fcntl

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        stream = output.open("a+b")
    except OSError as error:
        raise _unwritable(error, output) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ResourceError("another process is writing this file", "wait for it to end", str(output)) from None
        yield stream


def _where(output: Path, out: IO[bytes], wanted: State, restart: bool) -> tuple[State, Any]:
    """The state to go on from, with the output cut to it, and the running SHA-256 of the output."""
    size = os.fstat(out.fileno()).st_size
    file = state_file(output)
    if restart or (not file.exists() and size == 0):
        _write(output, wanted)
        out.truncate(0)
        return wanted, hashlib.sha256()
    if not file.exists():
        hint = "choose another --output, or --restart to overwrite it"
        raise ConfigError("there is a file that no batch has begun", hint, str(output))
    state = _read(file)
    again = "--restart begins anew, another --output leaves this one alone"
    for key, what in (("input", "the input"), ("run", "the run"), ("sampling", "the sampling"), ("window", "the run")):
        if getattr(state, key) != getattr(wanted, key):
            raise ConfigError(f"{what} is not what this output was begun with", again, str(output))
    digest = _digest(out, state.bytes)
    if size < state.bytes or (state.bytes and digest.hexdigest() != state.sha256):
        raise ConfigError("the output has been changed since it was written", again, str(output))
    out.truncate(state.bytes)  # what a killed process wrote beyond
    return state, digest


def _read(file: Path) -> State:
    value = rundir.read_json(file)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise ModelError(f"a state of schema {version}, this is {SCHEMA_VERSION}", "--restart begins anew", str(file))
    try:
        return State(**value)
    except TypeError:
        raise ModelError("damaged: not the state that tunery writes", "--restart begins anew", str(file)) from None


def _digest(stream: IO[bytes], size: int) -> Any:
    digest = hashlib.sha256()
    stream.seek(0)
    while size and (chunk := stream.read(min(size, _CHUNK))):
        digest.update(chunk)
        size -= len(chunk)
    return digest


def _write(output: Path, state: State) -> None:
    try:
        rundir.write_json(state_file(output), asdict(state))
    except ResourceError as error:
        raise ResourceError(error.problem, "free some disk space, or choose another --output", error.where) from None


def _unwritable(error: OSError, output: Path) -> ResourceError:
    found = rundir.unwritable(error, output)
    return ResourceError(found.problem, "free some disk space, or choose another --output", found.where)


# ------------------------------------------------------------------------------------------------ the work


def _go_on(
    run: Run, items: Iterator[Item], out: IO[bytes], output: Path, state: State, digest: Any, sampling: Sampling,
    on_bad_row: str,
) -> None:  # fmt: skip
    """Window by window: predict, append, say how far it is."""
    for _ in islice(items, state.rows):  # they are in the output
        pass
    first, began, told = state.rows, time.monotonic(), time.monotonic()
    while window := list(islice(items, state.window)):
        found = _predicted(run, window, state.rows, sampling)
        bad = [record for record in found if "error" in record]
        if bad and on_bad_row == "error":
            raise DataError(bad[0]["error"], "correct it, or --on-bad-row record", bad[0]["where"])
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found)
        raw = text.encode("utf-8", "surrogatepass")
        try:
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        except OSError as error:
            raise _unwritable(error, output) from None
        digest.update(raw)
        state.rows += len(window)
        state.bad += len(bad)
        state.bytes += len(raw)
        state.sha256 = digest.hexdigest()
        _write(output, state)
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            say(f"{state.rows} rows, {(state.rows - first) / (told - began):.1f} rows/s")
    state.finished = True
    _write(output, state)


def _predicted(run: Run, window: Sequence[Item], first: int, sampling: Sampling) -> list[dict[str, Any]]:
    """A record an item, in order: ``row`` (from 1), ``where``, and what ``tunery predict`` gives, or an ``error``."""
    problems = {i: item for i, item in enumerate(window) if isinstance(item, BadRow)}
    made = _try(run, window, problems, first, sampling)
    found = []
    for place, item in enumerate(window):
        about: dict[str, Any] = {"row": first + place + 1}
        if place in problems:
            about |= {"where": item.where, "error": problems[place].problem}
        else:
            about |= next(made)
        found.append(about)
    return found


def _try(
    run: Run, window: Sequence[Item], problems: dict[int, BadRow], first: int, sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """Records of the rows that have no problem. Rows that do not fit the model are found only when one is there."""
    asked = [item for i, item in enumerate(window) if i not in problems and isinstance(item, Example)]
    try:
        made = run.predict_examples(asked, sampling, first=first) if asked else []
        return iter(records(asked, made, run.tuned.task))
    except DataError:
        refused = {item.where: problem for item in asked if (problem := _refused(run, item))}
        if not refused:
            raise
    for place, item in enumerate(window):
        if place not in problems and item.where in refused:
            problems[place] = BadRow(item.where, refused[item.where])
    return _try(run, window, problems, first, sampling)


def _refused(run: Run, example: Example) -> str:
    """Why a row does not fit the model; empty if it does."""
    from tunery.data import soft

    tuned = run.tuned
    settings = training.settings(run.config, tuned.base, None)
    try:
        if tuned.task.output == "text":
            soft.prompt(tuned.task, example, tuned.tokenizer, settings.max_prompt)
        else:
            unlabelled = replace(example, label=None, tags=())
            soft.encode(tuned.task, unlabelled, tuned.tokenizer, settings.max_length)
    except DataError as error:
        return error.problem
    return ""
