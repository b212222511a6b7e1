"""Settings to begin a search with: what was best in earlier runs and searches that were most like this one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.decide.space import Choice, Range, Settings, Space
from tunery.errors import ModelError
from tunery.rundir import RunDir, read_json

FILE = "search.json"
MOST = 5
"""Settings that are taken over, whatever number is offered: the search shall look elsewhere, too."""
OF_ONE = 3
"""Of a search, its best trials."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings of an earlier training, what was trained on what, and how well it went there."""

    source: Path
    values: Mapping[str, Any]
    """The plain values of its whole configuration."""
    about: Mapping[str, Any]
    scores: Mapping[str, float]
    """On its own validation rows."""


def points(
    sources: Sequence[str],
    space: Space,
    about: Mapping[str, Any],
    base: Mapping[str, Any],
    monitor: str,
    higher_is_better: bool,
) -> tuple[list[tuple[Settings, str]], list[str]]:
    """→ settings with where they are from, the nearest earlier training first, and notes for the user.

    Nearest: the same model, then one of similar size, then the same method, then a similar number of rows, then the
    better score. Another task has other settings: its runs are passed over. Values outside of the space become the
    nearest inside.

    Args:
        sources: run directories, folders of searches, or folders of such.
        about: this search: task, model (its hash), method, parameters, rows.
        base: plain values of this search's configuration, for keys that an earlier one does not have.
    Raises ModelError: a source is neither.
    """
    found = [candidate for source in sources for candidate in _candidates(Path(source))]
    same = [candidate for candidate in found if candidate.about.get("task") == about["task"]]
    notes = []
    if len(same) < len(found):
        notes.append(f"warm start: {len(found) - len(same)} of {len(found)} are of another task and left out")
    sign = -1 if higher_is_better else 1

    def order(candidate: Candidate) -> tuple[float, ...]:
        return (*_distance(candidate.about, about), sign * candidate.scores.get(monitor, -sign * math.inf))

    result: list[tuple[Settings, str]] = []
    for candidate in sorted(same, key=order):
        settings = {key: fitting(space[key], (at(candidate.values, key), at(base, key))) for key in space}
        if settings not in [each for each, _ in result]:
            result.append((settings, str(candidate.source)))
    return result[:MOST], notes


def fitting(item: Range | Choice, values: Sequence[Any]) -> Any:
    """The nearest to the first value that is there; to none of them: the middle, or null where that may be."""
    for value in values:
        near = None if value is None else item.nearest(value)
        if near is not None:
            return near
    samples = item.samples
    return None if any(each is None for each in samples) else samples[len(samples) // 2]


def at(values: Mapping[str, Any], key: str) -> Any:
    """What stands at ``train.lr``; None: nothing."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _distance(there: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[float, ...]:
    return (
        there.get("model") != here["model"],
        round(_ratio(there.get("parameters"), here["parameters"]), 1),
        there.get("method") != here["method"],
        _ratio(there.get("rows"), here["rows"]),
    )


def _ratio(a: Any, b: Any) -> float:
    return abs(math.log(a / b)) if a and b else math.inf


def _candidates(source: Path) -> Iterator[Candidate]:
    if (source / FILE).is_file():
        yield from _of_search(source)
    elif (source / "manifest.json").is_file():
        yield from _of_run(source)
    else:
        inside = sorted(path.parent for name in (FILE, "manifest.json") for path in source.glob(f"*/{name}"))
        if not inside:
            raise ModelError("neither a run, nor a search, nor a folder of such", "tunery runs lists them", str(source))
        for path in inside:
            yield from _candidates(path)


def _of_search(folder: Path) -> Iterator[Candidate]:
    from tunery.config import put

    record = read_json(folder / FILE)
    sign = -1 if record["higher_is_better"] else 1
    done = [trial for trial in record.get("results", []) if trial["status"] == "completed"]
    best = sorted(done, key=lambda trial: sign * trial["value"])[:OF_ONE]
    for trial in best:
        scores = {record["monitor"]: trial["value"]}
        yield Candidate(folder, put(dict(record["config"]), trial["settings"]), record["about"], scores)


def _of_run(folder: Path) -> Iterator[Candidate]:
    run = RunDir.open(folder)
    manifest = run.manifest()
    if manifest.get("status") != "completed":
        return
    values = run.config().dump()
    about = {
        "task": (values.get("task") or {}).get("name"),
        "method": values["method"]["name"],
        "model": manifest.get("base", {}).get("hash"),
        "parameters": manifest.get("parameters", {}).get("total"),
        "rows": manifest.get("rows", {}).get("train"),
    }
    yield Candidate(folder, values, about, manifest.get("metrics") or {})
