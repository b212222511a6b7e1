"""Names of what is served: ``support`` is a run today and another one tomorrow.

``aliases.json`` in the folder of the runs holds, for each name, the run that it stands for now, the ones it stood for
before (a stack that ``rollback`` goes down) and all that ever happened to it. Runs in the same folder are written by
their names, so that the folder can be moved; others by absolute path.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunery import rundir
from tunery.errors import ConfigError, ModelError, near
from tunery.rundir import RunDir, timestamp

FILE = "aliases.json"
SCHEMA_VERSION = 1
RUNS = Path("runs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read(folder: Path = RUNS) -> dict[str, Path]:
    """Every alias and the run directory that it stands for, which may be gone. Raises ModelError: damaged."""
    return {name: _path(str(found["run"]), folder) for name, found in _entries(folder).items()}


def resolve(name_or_path: str | Path, folder: Path = RUNS) -> Path:
    """A run directory, or what an alias of the folder stands for; a run directory of that name comes first.

    Raises ModelError: there is no such run or alias, or the run of the alias is gone.
    """
    path = Path(name_or_path)
    name = str(name_or_path)
    if RunDir(path).manifest_file.is_file() or not _NAME.fullmatch(name):
        return path  # what is wrong with a path is said by who opens it
    known = read(folder)
    if name not in known:
        if path.exists() or not known:
            return path
        raise ModelError("no such run directory, nor an alias", near(name, sorted(known)), name)
    if not RunDir(known[name]).manifest_file.is_file():
        raise ModelError(f"the run of alias {name} is gone", _again(name), str(known[name]))
    return known[name]


def promote(run: str | Path, alias: str, folder: Path = RUNS) -> dict[str, Any]:
    """Let the alias stand for a finished run → its entry, as of ``listed``, and ``changed``.

    Raises ConfigError: a name that cannot be one. Raises ModelError: not a finished run.
    """
    _check_name(alias, folder)
    found = RunDir.open(resolve(run, folder))
    status = found.manifest().get("status")
    if status != "completed":
        hint = f"tunery resume {found.path}" if status in ("interrupted", "paused") else "train it to its end first"
        raise ModelError(f"only a finished run can be promoted, and this one is {status}", hint, str(found.path))
    stored = _stored(found.path, folder)
    with _changing(folder) as entries:
        old = entries.get(alias)
        if old is not None and old["run"] == stored:
            return {**_listed(alias, old, folder), "changed": False}
        now = timestamp()
        before = [] if old is None else [*old["previous"], {"run": old["run"], "since": old["since"]}]
        history = [] if old is None else old["history"]
        event = {"time": now, "action": "promote", "run": stored}
        entries[alias] = {"run": stored, "since": now, "previous": before, "history": [*history, event]}
        return {**_listed(alias, entries[alias], folder), "changed": True}


def rollback(alias: str, folder: Path = RUNS) -> dict[str, Any]:
    """Let the alias stand again for the run before → its entry.

    Raises ConfigError: no such alias. Raises ModelError: there is no run before, or it is gone.
    """
    with _changing(folder) as entries:
        old = entries.get(alias)
        if old is None:
            raise ConfigError(f"no alias {alias!r} in {folder}", _known(alias, entries), "--as")
        if not old["previous"]:
            raise ModelError("there is no run before this one to go back to", _again(alias), old["run"])
        stored = old["previous"][-1]["run"]
        path = _path(stored, folder)
        if not RunDir(path).manifest_file.is_file():
            raise ModelError("the run before this one is gone", _again(alias), str(path))
        now = timestamp()
        event = {"time": now, "action": "rollback", "run": stored}
        entries[alias] = {
            "run": stored, "since": now, "previous": old["previous"][:-1], "history": [*old["history"], event],
        }  # fmt: skip
        return {**_listed(alias, entries[alias], folder), "changed": True}


def listed(folder: Path = RUNS) -> list[dict[str, Any]]:
    """Every alias: ``name``, ``run`` (its directory), ``since``, ``gone``, ``previous`` and ``history``."""
    return [_listed(name, entry, folder) for name, entry in sorted(_entries(folder).items())]


# ------------------------------------------------------------------------------------------------ the file


def _listed(name: str, entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = _path(entry["run"], folder)
    return {
        "name": name,
        "run": str(path),
        "since": entry["since"],
        "gone": not RunDir(path).manifest_file.is_file(),
        "previous": [str(_path(old["run"], folder)) for old in entry["previous"]],
        "history": entry["history"],
    }


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / FILE
    if not file.exists():
        return {}
    value = rundir.read_json(file)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        problem = f"aliases of schema {version}, this is {SCHEMA_VERSION}"
        raise ModelError(problem, "use the tunery that wrote them", str(file))
    entries = value.get("aliases")
    if not isinstance(entries, dict) or not all(map(_whole, entries.values())):
        raise ModelError("damaged: not the aliases that tunery writes", "restore the file, or delete it", str(file))
    return entries


def _whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("run", "since")):
        return False
    lists = [entry.get(key) for key in ("previous", "history")]
    return all(
        isinstance(items, list) and all(isinstance(i, dict) and isinstance(i.get("run"), str) for i in items)
        for items in lists
    )


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """The entries, written back when the block ends well. One process at a time changes them."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{FILE}.lock").open("w")
    except OSError as error:
        raise rundir.unwritable(error, folder) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _entries(folder)
        before = repr(entries)
        yield entries
        if repr(entries) != before:
            rundir.write_json(folder / FILE, {"schema_version": SCHEMA_VERSION, "aliases": entries})


def _check_name(alias: str, folder: Path) -> None:
    if not _NAME.fullmatch(alias):
        hint = "up to 64 letters, digits, dots, - and _, a letter or digit first: --as support"
        raise ConfigError(f"{alias!r} cannot be an alias", hint, "--as")
    if any(RunDir(at / alias).manifest_file.exists() for at in (folder, Path())):
        raise ConfigError(f"{alias!r} is the name of a run", "choose another name", "--as")


def _stored(path: Path, folder: Path) -> str:
    whole, root = path.resolve(), folder.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _path(stored: str, folder: Path) -> Path:
    return folder / stored  # an absolute path stays what it is


def _known(alias: str, entries: dict[str, Any]) -> str:
    return near(alias, sorted(entries)) if entries else f"tunery promote RUN --as {alias} makes it"


def _again(alias: str) -> str:
    return f"promote another one: tunery promote RUN --as {alias}"
