"""Cross-validation: every row is tested once, by a run that has not seen it.

The parts are ordinary runs (``data.folds=5 data.fold=2``) in one folder; each holds validation rows of its own
training part out, so that stopping early never looks at the rows it is tested on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tunery import stats
from tunery.config import Config
from tunery.errors import ConfigError, DataError, ModelError
from tunery.run.dataset import changed_file, load_dataset
from tunery.run.manifest import absolute, run_name
from tunery.run.records import say
from tunery.run.train import resume as resume_run
from tunery.run.train import train
from tunery.rundir import RunDir, read_json, write_json

FILE = "folds.json"


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A folder of one run for each fold, and what they say together."""

    path: Path

    @property
    def folds(self) -> list[RunDir]:
        """The runs so far, in the order of the folds."""
        names = [f"fold-{number}" for number in range(1, self._record()["count"] + 1)]
        return [RunDir(self.path / name) for name in names if (self.path / name / "manifest.json").is_file()]

    @property
    def metrics(self) -> dict[str, float]:
        """Means over the folds of the numbers on the rows that each fold was tested on."""
        return {name: found["mean"] for name, found in self._record().get("metrics", {}).items()}

    def summary(self) -> dict[str, Any]:
        """What ``train --json`` prints."""
        record = self._record()
        runs = [run.manifest() for run in self.folds]
        first = runs[0] if runs else {}
        return {
            "run": str(self.path),
            "status": record["status"],
            "steps": sum(run.get("steps", 0) for run in runs),
            "seconds": sum(run.get("seconds", 0.0) for run in runs),
            "tokens_per_second": mean(run.get("tokens_per_second", 0.0) for run in runs) if runs else 0.0,
            "peak_memory_bytes": max((run.get("peak_memory_bytes", 0) for run in runs), default=0),
            "trainable_parameters": first.get("parameters", {}).get("trainable"),
            "metrics": self.metrics,
            "base": {name: found["base"] for name, found in record.get("metrics", {}).items() if "base" in found},
            "intervals": {name: found["interval"] for name, found in record.get("metrics", {}).items()},
            "folds": [{"run": str(run.path), "metrics": run.manifest().get("test_metrics")} for run in self.folds],
        }

    def _record(self) -> dict[str, Any]:
        return dict(read_json(self.path / FILE))


def is_folder(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def cross_validate(config: Config) -> CrossValidation:
    """One run for each fold. Raises TuneryError as ``train`` does; ``resume`` goes on after an interruption."""
    if not config.data.folds or config.data.fold:
        raise ConfigError("not a cross-validation", "set data.folds and leave data.fold out", "data.folds")
    if not config.eval.test:
        raise ConfigError("a cross-validation scores test rows", "leave eval.test out", "eval.test")
    folder = RunDir.create(Path(config.run.dir), config.run.name or run_name(config)).path
    values = absolute(config).dump()
    write_json(folder / FILE, {"status": "running", "count": config.data.folds, "config": values})
    try:
        return _go_on(folder, config)
    except BaseException:
        if not any(folder.glob("fold-*")):  # nothing was begun: leave nothing behind
            (folder / FILE).unlink()
            folder.rmdir()
        raise


def resume(path: str | Path) -> CrossValidation:
    """Finish the fold that was interrupted, then train those that are missing. Raises ModelError if none is."""
    from tunery import config as configuration

    folder = Path(path)
    record = read_json(folder / FILE)
    if record["status"] == "completed":
        raise ModelError("this cross-validation is completed", "tunery train makes a new one", str(path))
    config = configuration.build(record["config"])
    _refuse_changed(folder, config)
    return _go_on(folder, config)


def _go_on(folder: Path, config: Config) -> CrossValidation:
    count = config.data.folds or 0
    for number in range(1, count + 1):
        run = RunDir(folder / f"fold-{number}")
        status = run.manifest().get("status") if run.manifest_file.is_file() else None
        if status == "completed":
            continue
        say(f"fold {number} of {count}")
        if status is None:
            places = config.run.model_copy(update={"dir": str(folder), "name": f"fold-{number}"})
            data = config.data.model_copy(update={"fold": number})
            train(config.model_copy(update={"data": data, "run": places}))
        else:
            resume_run(run.path)
    found = CrossValidation(folder)
    together = _together([run.manifest() for run in found.folds])
    values = absolute(config).dump()
    write_json(folder / FILE, {"status": "completed", "count": count, "metrics": together, "config": values})
    return found


def _refuse_changed(folder: Path, config: Config) -> None:
    """Raises DataError if the data are not what the first fold was divided from: folds would overlap."""
    begun = RunDir(folder / "fold-1")
    if not begun.manifest_file.is_file():
        return
    data = config.data.model_copy(update={"fold": 1})
    now = load_dataset(data, config.task_name, config.train.seed).hashes
    if changed := changed_file(begun.manifest()["data"], now):
        raise DataError("the data changed since the first fold", "begin a new cross-validation", changed)


def _together(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and interval of every number that all folds have."""
    names = [name for name in runs[0]["test_metrics"] if all(name in run["test_metrics"] for run in runs)]
    result = {}
    for name in names:
        values = [run["test_metrics"][name] for run in runs]
        result[name] = {"mean": mean(values), "deviation": stdev(values), "values": values}
        result[name]["interval"] = list(stats.folds_interval(values))
        before = [(run.get("base_test_metrics") or {}).get(name) for run in runs]
        if all(value is not None for value in before):
            result[name]["base"] = mean(value for value in before if value is not None)
    return result
