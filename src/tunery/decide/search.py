"""``tunery search``: which settings are best, tried out on the validation rows.

A search is a folder: ``search.json`` with all that was asked and found, ``study.db`` with the trials (unless they are
kept on a server), one run directory a trial, and ``best.yaml``, which ``tunery train`` takes. Trials run in processes
of their own (``decide.trial``), one for each worker, with the CPUs shared out among the workers. The test rows are not
known to any trial; the best settings are trained once more with them, at the very end.

Whatever is killed, a trial or the whole search, ``resume`` goes on: a trial that had begun from its last checkpoint.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunery.config import Config
from tunery.decide import ranges, warm
from tunery.decide import space as spaces
from tunery.decide.settings import check
from tunery.decide.subject import Subject, describe
from tunery.errors import ConfigError, ModelError
from tunery.rundir import RunDir, read_json, write_json

FILE = warm.FILE
TRIALS = 20
STALE_AFTER = 180.0
VERSION = 1
"""Of search.json."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to search. ``None`` is: as is best, or as the search had it before it was resumed."""

    trials: int | None = None
    """In all, of all workers; default 20, and every combination for a grid."""
    sampler: str = "tpe"
    pruner: str = "median"
    workers: int | None = None
    """Trials at the same time; default 1."""
    seed: int = 0
    seconds: float | None = None
    """After these no new trial begins."""
    storage: str | None = None
    """Address of a PostgreSQL database; default: SQLite in the search's folder."""
    study: str | None = None
    """Name of the study in that database."""
    warm_start: tuple[str, ...] = ()
    stale_after: float = STALE_AFTER
    """Seconds without a sign of life after which another machine's worker counts as dead."""


def is_folder(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def search(config: Config, space: Mapping[str, Any] | None = None, options: Options = Options()) -> dict[str, Any]:
    """Search, and return what ``summary`` does.

    Args:
        config: what is the same in all trials.
        space: ranges by key, see ``decide.space``; default: sensible ones for the method.
    Raises ConfigError, DataError, ModelError before anything is trained; Interrupted, and ``resume`` goes on;
    ModelError if no trial could be finished.
    """
    _need_optuna()
    base = config.dump()
    if not isinstance(space or {}, Mapping):
        raise ConfigError("keys with ranges are needed", "write search: {train.lr: {log: [1e-5, 1e-3]}}", "search")
    given = spaces.parse(space or {})
    if given and config.task is not None:  # errors of the configuration come before those of the data
        check(given, base)
    for name in options.warm_start:
        if not Path(name).is_dir():
            raise ModelError("no such run or search", "tunery runs lists them", name)
    storage = _address(options)
    subject = describe(config)
    base = subject.config.dump()
    found, notes = (given, []) if given else ranges.sensible(
        subject.config, subject.default_lr, subject.rows, subject.layers, subject.family
    )  # fmt: skip
    check(found, base)
    _grid_needs_ends(found, options)
    points, more = _first(found, subject, base, options)
    folder = RunDir.create(Path(config.run.dir), config.run.name or f"search-{subject.name}").path.absolute()
    record = {
        "schema_version": VERSION,
        "status": "running",
        "name": options.study or f"{subject.name_without_date}-{subject.digest(found)}" if storage else "search",
        "storage": _shown(storage),
        **{key: value for key, value in asdict(options).items() if key not in ("storage", "study", "warm_start")},
        "trials": _how_many(found, options),
        "workers": options.workers or 1,
        "monitor": subject.monitor,
        "higher_is_better": subject.higher_is_better,
        "space": spaces.written(found),
        "about": subject.about,
        "fixed": subject.digest({}),
        "config": base,
        "results": [],
    }
    write_json(folder / FILE, record)
    try:
        return _run(folder, record, storage, points, [*notes, *more])
    except BaseException:
        if not read_json(folder / FILE)["results"]:  # nothing was begun: leave nothing behind
            shutil.rmtree(folder, ignore_errors=True)
        raise


def resume(path: str | Path, options: Options = Options()) -> dict[str, Any]:
    """Go on with a search: with the trials that had begun, then with new ones up to ``options.trials``.

    Of the options those that are not None or default change how it goes on: trials, workers, seconds, storage (with
    the password that is not kept). Raises as ``search`` does.
    """
    _need_optuna()
    folder = Path(path).absolute()
    if not is_folder(folder):
        raise ModelError("not the folder of a search (no search.json)", "name the folder that search made", str(path))
    record = read_json(folder / FILE)
    if record["storage"] != "sqlite":
        from tunery.decide import storage as storages

        storage = storages.postgresql(options.storage or record["storage"])
    else:
        storage = None
    new = {"trials": options.trials, "seconds": options.seconds, "workers": options.workers}
    record |= {key: value for key, value in new.items() if value is not None}
    return _run(folder, record, storage, [], [])


def _run(
    folder: Path,
    record: dict[str, Any],
    storage: str | None,
    points: Sequence[tuple[spaces.Settings, str]],
    notes: Sequence[str],
) -> dict[str, Any]:
    from tunery.decide.best import conclude
    from tunery.decide.storage import sqlite
    from tunery.decide.study import Plan, Study
    from tunery.decide.workers import Workers
    from tunery.run.records import say

    run = RunDir(folder)
    with run.lock():
        began = time.monotonic()
        study = Study(
            storage or sqlite(folder),
            record["name"],
            Plan(record["trials"], record["sampler"], record["pruner"], record["seed"], record["higher_is_better"]),
            spaces.parse(record["space"]),
            record["config"],
            {**{key: record["about"][key] for key in ("task", "model", "data")}, "configuration": record["fixed"]},
            f"{socket.gethostname()}:{folder}",
            record["stale_after"],
        )
        study.suggest(points)
        for note in notes:
            say(note)
        workers = Workers(folder, record, study, began)
        workers.work()
        return conclude(folder, workers.record, study)


# ------------------------------------------------------------------------------------------- preparing


def _need_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("searching needs the package optuna", "pip install 'tunery[search]'") from None


def _address(options: Options) -> str | None:
    if options.storage is None:
        if options.study is not None:
            raise ConfigError("a study has a name where several share it", "name the server with --storage", "--study")
        return None
    from tunery.decide import storage as storages

    url = storages.postgresql(options.storage)
    storages.open_storage(url).engine.dispose()  # an error of the server comes before minutes of preparation
    return url


def _shown(storage: str | None) -> str:
    from tunery.decide import storage as storages

    return storages.shown(storage) if storage else "sqlite"


def _grid_needs_ends(space: spaces.Space, options: Options) -> None:
    if options.sampler == "grid" and spaces.combinations(space) is None:
        endless = [key for key, item in space.items() if item.values is None]
        problem = "a grid needs values that can be counted"
        hint = "give a list or a step, or take --sampler random"
        raise ConfigError(problem, hint, endless[0] if endless else "--sampler")


def _how_many(space: spaces.Space, options: Options) -> int:
    if options.trials is None and options.sampler == "grid":
        return len(spaces.combinations(space) or ())
    return options.trials or TRIALS


def _first(
    space: spaces.Space, subject: Subject, base: Mapping[str, Any], options: Options
) -> tuple[list[tuple[spaces.Settings, str]], list[str]]:
    """Settings to begin with: the configuration's own, if they are in the space, then those of earlier trainings."""
    points: list[tuple[spaces.Settings, str]] = []
    own = {key: warm.at(base, key) for key in space}
    if "train.lr" in own and own["train.lr"] is None:
        own["train.lr"] = subject.default_lr
    notes: list[str] = []
    if options.sampler != "grid":
        near = {key: warm.fitting(item, [own[key]]) for key, item in space.items()}
        if all(own[key] in (None, value) for key, value in near.items()):  # null: the default, whatever that is
            points.append((near, "as configured" if near == own else "near the defaults"))
        known, notes = warm.points(
            options.warm_start, space, subject.about, base, subject.monitor, subject.higher_is_better
        )
        points += known
    return points, notes
