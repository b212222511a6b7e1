"""What runs said about the same test rows, read from their directories or asked now; other rows are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunery import registry, scoring
from tunery.data.read import paths
from tunery.errors import DataError, ModelError
from tunery.protocols import Task
from tunery.rundir import RunDir, read_json, read_jsonl

if TYPE_CHECKING:
    from tunery.run.run import Run

LOSSES = ("loss", "perplexity")


@dataclass(slots=True)
class Answers:
    """One run on the test rows; all lists are in the order of the rows."""

    path: str
    data: str
    """File of the rows, or its name in the run."""
    kind: str
    """Of the metrics that read its predictions: classes, text, …; loss where there are no predictions."""
    numbers: tuple[str, ...]
    """What the run reports, the most telling first."""
    labels: tuple[str, ...] = ()
    places: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    contains: list[tuple[str, ...]] = field(default_factory=list)
    losses: list[tuple[float, int]] = field(default_factory=list)
    """Sum over the targets of a row, and how many it has; only where the loss is compared."""
    hashes: frozenset[str] = frozenset()
    """SHA-256 of the files the rows came from, as far as the run has recorded them."""

    def __len__(self) -> int:
        return len(self.places)


def finished(path: str) -> RunDir:
    """Raises ModelError: no run directory, or a run that is not completed."""
    run = RunDir.open(path)
    status = run.manifest().get("status")
    if status != "completed":
        raise ModelError(f"this run is {status}, not completed", f"tunery resume {path}", path)
    return run


def read(path: str, data: Sequence[str] = (), metric: str | None = None) -> Answers:
    """What a run says about its test rows, or about files.

    Args:
        path: of the run.
        data: files; each run reads them with its own format and cleaning, and answers them now.
        metric: the number to compare by. For the loss the model is loaded, as it is not stored by row.

    Raises ModelError: no finished run. DataError: no test rows, or none with a reference. ConfigError: a metric that
    does not fit the task.
    """
    run = finished(path)
    kinds = _kinds(run)
    names = _numbers(run)
    if metric:
        scoring.check([metric], kinds)
    kind = next((kind for kind in kinds if kind != "loss"), "loss")
    labels = tuple(str(label) for label in _task_record(run).get("state", {}).get("labels", ()))
    found = Answers(path, "", kind, names, labels)
    file = run.evaluation("test") / "predictions.jsonl"
    if (metric or best(names)) in LOSSES:
        _losses(found, data)
    elif data:
        _fill(found, _model(path).predict_file(list(data)), ", ".join(data))
    elif file.is_file():
        _fill(found, _lines(file), f"{run.evaluation('test').name} rows")
    else:
        raise DataError("it was not scored on test rows", "name a file of test rows with --data FILE", path)
    if not data:
        found.hashes = _test_hashes(run)
    return found


def refuse_other_rows(answers: Sequence[Answers]) -> list[str]:
    """Raises DataError with the reason, unless all runs were asked the same rows → notes for the user."""
    first = answers[0]
    read_otherwise = 0
    for other in answers[1:]:
        hint = "compare them on one file: --data FILE"
        if other.kind != first.kind:
            raise DataError(f"it gives {other.kind}, and {first.path} gives {first.kind}", "", other.path)
        if len(other) != len(first):
            raise DataError(f"it has {len(other)} test rows, and {first.path} has {len(first)}", hint, other.path)
        same_file = bool(first.hashes) and first.hashes == other.hashes
        for i, place in enumerate(other.places):
            where = f"row {i + 1} ({place}, and {first.places[i]} of {first.path})"
            if other.inputs[i] != first.inputs[i]:
                if not same_file or place.rpartition(":")[2] != first.places[i].rpartition(":")[2]:
                    raise DataError(f"other test rows: {where} is another one", hint, other.path)
                read_otherwise += 1
            if other.references[i] != first.references[i]:
                said = f"{other.references[i]!r}, not {first.references[i]!r}"
                hint = "give the runs the same data.labels and task"
                raise DataError(f"other answers are expected: {where} has {said}", hint, other.path)
    if read_otherwise:
        return ["the runs read the inputs differently (data.clean); rows were matched by file and line"]
    return []


def best(names: Sequence[str]) -> str:
    """The first that is not a loss: what a user sees, rather than what is trained for."""
    return next((name for name in names if name not in LOSSES), names[0])


# -------------------------------------------------------------------------------------------- reading


def _numbers(run: RunDir) -> tuple[str, ...]:
    manifest = run.manifest()
    numbers = tuple(manifest.get("test_metrics") or manifest.get("metrics") or ())
    wanted = tuple(run.config().eval.metrics or ())
    if not numbers and not wanted:
        raise ModelError("the run has no scores", "train it again", str(run.path))
    return tuple(dict.fromkeys((*wanted, *numbers)))


def _task_record(run: RunDir) -> dict[str, Any]:
    file = run.model / "task.json"
    return dict(read_json(file)) if file.is_file() else {}


def _kinds(run: RunDir) -> tuple[str, ...]:
    """Kinds of metrics for the run's predictions, as its task says when its state is restored."""
    config = run.config()
    task: Task = registry.get("task", str(config.task_name))(config.task)
    record = _task_record(run)
    if "state" in record:
        task.restore(record["state"])
    return tuple(task.kinds)


def _model(path: str) -> Run:
    from tunery.run.run import load

    return load(path)


def _test_hashes(run: RunDir) -> frozenset[str]:
    files, known = run.config().data.test, run.manifest().get("data", {})
    return frozenset(known[name] for name in (paths(files) if files else []) if name in known)


def _lines(file: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(file)
    except ModelError as error:
        raise ModelError(error.problem, "restore it, or name the rows with --data FILE", error.where) from None


def _fill(found: Answers, records: Sequence[dict[str, Any]], data: str) -> None:
    found.data = data
    for record in records:
        reference = record.get("reference", () if found.kind == "multilabel" else None)
        if reference is None:
            raise DataError("a row without an answer to compare with", "rows need targets", record["where"])
        found.places.append(record["where"])
        found.inputs.append(record["input"])
        found.references.append(_plain(reference))
        found.predictions.append(_plain(record["prediction"]))
        found.contains.append(tuple(record.get("contains", ())))
    if not found.places:
        raise DataError("no row has an answer to compare with", "rows need targets", found.path)


def _plain(value: Any) -> Any:
    """JSON has no tuples, metrics want them."""
    return tuple(value) if isinstance(value, list) else value


def _losses(found: Answers, data: Sequence[str]) -> None:
    run = _model(found.path)
    files = list(data) or paths(run.config.data.test or [])
    if not files:
        raise DataError("it has no test rows", "name a file of test rows with --data FILE", found.path)
    found.data, found.kind = ", ".join(data) if data else "test rows", "loss"
    for example, total, count in run.row_losses(files):
        found.places.append(example.where)
        found.inputs.append(example.input_text)
        found.references.append(run.tuned.task.reference(example))
        found.losses.append((total, count))
