"""Do I need more data? Train on growing parts of the rows, and extrapolate the learning curve.

A curve is a folder of ordinary runs, ``N-rows-seed-S``, and ``curve.json``. The parts double in size, and each is
within the next one (``data.take``). Every run is a process of its own (``trial.py``); an interrupted curve is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tunery import config as configuration
from tunery import registry, scoring
from tunery.config import Config
from tunery.decide import trial
from tunery.decide.answers import best
from tunery.decide.compare import compare
from tunery.decide.extrapolate import LEAST_SIZES, Curve, fit
from tunery.errors import ConfigError, DataError, Interrupted, ModelError, TuneryError
from tunery.protocols import Task
from tunery.run.dataset import load_dataset
from tunery.run.manifest import absolute, run_name
from tunery.run.records import say
from tunery.rundir import RunDir, read_json, write_json

FILE = "curve.json"
SIZES, SEEDS = 5, 3
LEAST_ROWS = 8
TIMES = (2, 4)
"""Multiples of all rows whose score is told."""
_TOP = {"bleu": 100.0, "perplexity": 1.0}
"""Best value of a number, where it is not 1 (higher is better) or 0."""


def is_folder(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def begin(
    config: Config, *, share: float = 1.0, sizes: int = SIZES, seeds: int = SEEDS, metric: str | None = None
) -> dict[str, Any]:
    """Train on ``sizes`` parts of the training rows, the largest a ``share`` of them, each with ``seeds`` seeds.

    Scores are those of the test rows if the configuration names some, else of the validation rows; ``metric`` is the
    first number that is no loss, unless named. Returns what ``tunery curve --json`` prints.

    Raises TuneryError as training does; ConfigError, DataError for a curve of fewer than three sizes or two seeds.
    """
    if config.data.folds or config.data.take:
        raise ConfigError("a curve takes its parts itself", "leave data.folds and data.take out", "data")
    if seeds < 2 or sizes < LEAST_SIZES or not 0 < share <= 1:
        problem = f"a curve needs two seeds, {LEAST_SIZES} sizes and a share above 0 and up to 1"
        raise ConfigError(problem, "see tunery curve --help", "tunery curve")
    dataset = load_dataset(config.data, config.task_name, config.train.seed)
    rows = dataset.splits["train"]
    if metric:
        config = _reporting(config, dataset.task, metric)
    labels = len(set(rows.label_numbers)) if rows.label(0) is not None and dataset.task != "regress" else 0
    parts = part_sizes(len(rows), share, sizes, max(LEAST_ROWS, labels))
    folder = RunDir.create(Path(config.run.dir), config.run.name or f"{run_name(config)}-curve").path
    record = {
        "status": "running",
        "rows": len(rows),
        "sizes": parts,
        "seeds": [config.train.seed + number for number in range(seeds)],
        "split": "test" if config.data.test else "validation",
        "metric": metric,
        "points": [],
        "config": absolute(config).dump(),
    }
    write_json(folder / FILE, record)
    return _go_on(folder)


def resume(path: str | Path) -> dict[str, Any]:
    """Train what is missing; runs that failed are tried again. Raises ModelError if nothing is missing."""
    record = read_json(Path(path) / FILE)
    if record["status"] == "completed":
        raise ModelError("this curve is completed", "tunery curve makes a new one", str(path))
    return _go_on(Path(path))


def _reporting(config: Config, task_name: str, metric: str) -> Config:
    """With the metric among the numbers that runs report. Raises ConfigError for one that does not fit the task."""
    section = config.task or registry.config_class("task", task_name).model_validate({"name": task_name})
    task: Task = registry.get("task", task_name)(section)
    scoring.check([metric], task.kinds)
    names = list(dict.fromkeys([*(config.eval.metrics or task.metrics), metric]))
    return config.model_copy(update={"eval": config.eval.model_copy(update={"metrics": names})})


def part_sizes(rows: int, share: float, count: int, least: int) -> list[int]:
    """Numbers of rows, each half of the next. Raises DataError if fewer than three have ``least`` rows.

    >>> part_sizes(1000, 0.5, 4, 8)
    [62, 125, 250, 500]
    """
    largest = round(share * rows)
    found = [largest >> halvings for halvings in reversed(range(count)) if largest >> halvings >= least]
    if len(found) < LEAST_SIZES:
        needed = least * 2 ** (LEAST_SIZES - 1)
        problem = f"{largest} rows are too few for a curve: {LEAST_SIZES} sizes, each half of the next, need {needed}"
        raise DataError(problem, "get more rows, or a larger --share", "data.train")
    return found


# --------------------------------------------------------------------------------------------- trials


def _go_on(folder: Path) -> dict[str, Any]:
    with RunDir(folder).lock():
        return _train(folder)


def _train(folder: Path) -> dict[str, Any]:
    record = dict(read_json(folder / FILE))
    config = configuration.build(record["config"])
    done = {(p["rows"], p["seed"]): p for p in record["points"] if p["status"] == "completed"}
    wanted = [(rows, seed) for seed in record["seeds"] for rows in record["sizes"]]
    record |= {"status": "running", "points": list(done.values())}
    try:
        for number, (rows, seed) in enumerate(wanted, 1):
            if (rows, seed) not in done:
                say(f"{number} of {len(wanted)}: {rows} rows, seed {seed}")
                record["points"].append(_trial(folder, config, record, rows, seed))
                write_json(folder / FILE, record)
    except (Interrupted, KeyboardInterrupt):
        write_json(folder / FILE, {**record, "status": "interrupted"})
        raise
    except TuneryError as error:
        write_json(folder / FILE, {**record, "status": "failed", "problem": str(error)})
        raise
    failed = [point for point in record["points"] if point["status"] == "failed"]
    record["status"] = "failed" if failed else "completed"
    record |= summarise(record)
    write_json(folder / FILE, record)
    _draw(folder, record)
    return {"curve": str(folder), **{key: value for key, value in record.items() if key != "config"}}


def _trial(folder: Path, config: Config, record: Mapping[str, Any], rows: int, seed: int) -> dict[str, Any]:
    """One point. Raises TuneryError if it failed and none before it was completed: then all would."""
    name = f"{rows}-rows-seed-{seed}"
    run = trial.latest(folder / name)
    log = folder / "trials.log"
    status = trial.standing(run)
    if status == "completed":
        outcome = trial.Outcome("completed", run)
    elif status in (None, "failed"):
        outcome = trial.start(_part_of(config, folder, name, rows, seed), log=log)
    else:
        outcome = trial.go_on(run, log=log)
    if outcome.status in ("interrupted", "paused"):
        raise Interrupted("interrupted", f"tunery resume {folder}", str(folder))
    point = {"rows": rows, "seed": seed, "run": str(outcome.run) if outcome.run else None, "status": outcome.status}
    if outcome.status == "failed":
        say(f"failed: {outcome.problem}")
        if not any(before["status"] == "completed" for before in record["points"]):
            raise TuneryError(f"the first training failed: {outcome.problem}", f"see {log}", str(folder))
        return {**point, "problem": outcome.problem}
    manifest = outcome.manifest
    found = manifest.get("test_metrics" if record["split"] == "test" else "metrics") or {}
    return {**point, "metrics": found, "seconds": manifest.get("seconds")}


def _part_of(config: Config, folder: Path, name: str, rows: int, seed: int) -> Config:
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"take": rows}),
            "train": config.train.model_copy(update={"seed": seed}),
            "eval": config.eval.model_copy(update={"base": False, "baselines": False, "test": True}),
            "run": config.run.model_copy(update={"dir": str(folder), "name": name}),
        }
    )


# ------------------------------------------------------------------------------------------ the answer


def summarise(record: Mapping[str, Any]) -> dict[str, Any]:
    """The metric, the fitted curve, what it predicts, and what the last doubling brought.

    Raises ConfigError for a metric that the runs do not report, DataError for too few runs.
    """
    done = [point for point in record["points"] if point["status"] == "completed"]
    metric = record["metric"] or best(list(done[0]["metrics"]))
    if any(metric not in point["metrics"] for point in done):
        hint = f"reported: {', '.join(done[0]['metrics'])}"
        raise ConfigError(f"the runs do not report {metric!r}", hint, "--metric")
    scores: dict[int, list[float]] = {}
    for point in sorted(done, key=lambda point: point["rows"]):
        scores.setdefault(point["rows"], []).append(float(point["metrics"][metric]))
    try:
        higher = scoring.number_names()[metric].higher_is_better
        top = _TOP.get(metric, 1.0 if higher else 0.0)
        curve = fit(scores, higher_is_better=higher, bounds=(-math.inf, top) if higher else (top, math.inf))
    except ValueError as error:
        raise DataError(f"too few of the trainings succeeded: {error}", "trials.log says why", "tunery curve") from None
    targets = sorted({record["rows"], *(times * record["rows"] for times in TIMES)} - {max(scores)})
    predictions = [_prediction(curve, rows, max(scores)) for rows in targets]
    found: dict[str, Any] = {
        "metric": metric,
        "higher_is_better": higher,
        "scores": [{"rows": rows, "mean": fmean(values), "values": values} for rows, values in scores.items()],
        "fit": {
            "form": "a - b n^-c" if higher else "a + b n^-c",
            "a": curve.a, "b": curve.b, "c": curve.c, "noise": curve.deviation(max(scores)),
        },
        "line": [[rows, curve(rows), *curve.interval(rows)] for rows in _spaced(min(scores), max(targets))],
        "predictions": predictions,
        "last_doubling": _last_doubling(record, done, metric),
    }  # fmt: skip
    return {**found, "verdict": _verdict(record["rows"], curve, found)}


def _prediction(curve: Curve, rows: int, trained: int) -> dict[str, Any]:
    low, high = curve.interval(rows)
    gained = curve.gain(trained, rows)
    return {
        "rows": rows, "score": curve(rows), "interval": [low, high],
        "gain": curve(rows) - curve(trained), "gain_interval": list(gained),
    }  # fmt: skip


def _spaced(low: int, high: int, count: int = 60) -> list[int]:
    return sorted({round(low * (high / low) ** (i / count)) for i in range(count + 1)})


def _last_doubling(record: Mapping[str, Any], done: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Difference of the two largest sizes: over rows and seeds on test rows, else over seeds alone."""
    half, whole = sorted({point["rows"] for point in done})[-2:]
    by_size = {rows: {p["seed"]: p for p in done if p["rows"] == rows} for rows in (half, whole)}
    found: dict[str, Any] = {"from": half, "to": whole}
    if record["split"] == "test":
        groups = {str(rows): [p["run"] for p in points.values()] for rows, points in by_size.items()}
        try:
            pair = compare(groups=groups, metric=metric)["pairs"][0]
            return {**found, **{key: pair[key] for key in ("difference", "interval", "tie", "covers")}}
        except TuneryError as error:  # of a metric that is no answer's (loss), among others
            say(f"the last doubling over seeds alone: {error.problem}")
    from scipy.stats import t

    shared = sorted(by_size[half].keys() & by_size[whole].keys())
    gains = [by_size[whole][s]["metrics"][metric] - by_size[half][s]["metrics"][metric] for s in shared]
    if not gains:
        return {**found, "difference": None, "interval": None, "tie": None, "covers": "seeds"}
    mean = fmean(gains)
    reach = float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    interval = [mean - reach, mean + reach] if math.isfinite(reach) else None
    tie = abs(mean) <= reach
    return {**found, "difference": mean, "interval": interval, "tie": tie, "covers": "seeds"}


def _verdict(rows: int, curve: Curve, found: Mapping[str, Any]) -> str:
    """More data is worth it if a doubling brings more than trainings differ by chance."""
    twice = next(p for p in found["predictions"] if p["rows"] == 2 * rows)
    gain = curve(2 * rows) - curve(rows)
    noise = curve.deviation(rows)
    low, high = curve.gain(rows, 2 * rows)
    ends = f"{min(low, high):+.4f} to {max(low, high):+.4f}"
    said = f"twice the rows are expected to change {found['metric']} by {gain:+.4f} ({ends}), to {twice['score']:.4f}"
    chance = f"trainings on all rows differ by {noise:.4f} by chance (standard deviation)"
    if min(abs(low), abs(high)) > noise:
        return f"More data would help: {said}; {chance}."
    if max(abs(low), abs(high)) <= noise:
        return f"More data of this kind would hardly help: {said}; {chance}."
    if abs(gain) > noise:
        return f"More data would probably help: {said}; {chance}."
    return f"More data would probably help little: {said}; {chance}."


def _draw(folder: Path, record: Mapping[str, Any]) -> None:
    from tunery.decide.curve_picture import draw

    draw(record, folder / "curve.png")
