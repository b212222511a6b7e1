"""The page of a folder of runs: what each cost and reached, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunery.errors import DataError
from tunery.report import intervals, pages, pictures, verdict, words
from tunery.report.page import Link, Page, Picture, Table, Text, section
from tunery.report.pictures import Point, Unit
from tunery.report.records import Records, read
from tunery.report.verdict import Judged
from tunery.rundir import find

COSTS: tuple[tuple[str, str, Unit], ...] = (
    ("seconds", "time in training steps", "seconds"),
    ("peak_memory_bytes", "peak memory", "bytes"),
    ("adapter_bytes", "size of what was trained", "bytes"),
)
"""Of the manifest, its name for people, its unit."""


def write(folder: Path) -> tuple[Path, str]:
    """``report.html`` and ``report.md`` of the runs right below a folder → the first, and the sentence on top.

    Raises DataError if there are none, ModelError if one is damaged, ResourceError if it cannot be written.
    """
    runs = [read(run) for run in find(folder)]
    if not runs:
        raise DataError("no runs in this folder", "name a run, or a folder of runs", str(folder))
    made = page(folder, runs)
    return pages.write(folder, made), made.lead


def page(folder: Path, runs: Sequence[Records]) -> Page:
    """The runs that can be compared by one number come first, the best of them on top."""
    judged = [(run, verdict.judge(run) if run.manifest.get("status") == "completed" else None) for run in runs]
    numbers = [found.number for _, found in judged if found]
    number = max(dict.fromkeys(numbers), key=numbers.count, default=None)
    sign = 1 if number is None or intervals.higher_is_better(number) else -1
    comparable = [(run, found) for run, found in judged if found and found.number == number]
    comparable.sort(key=lambda item: -sign * item[1].value)
    rest = [run for run, found in judged if not found or found.number != number]
    rows = [_row(run, found) for run, found in comparable] + [_row(run, None) for run in rest]
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if _any(rows, name)]
    pareto = [_picture(comparable, *cost, number or "", sign) for cost in COSTS]
    reached = [(run.path.name, found.value, *(found.interval or (None, None))) for run, found in comparable if number]
    return Page(
        f"Runs in {folder.resolve().name}",
        _lead(runs, comparable, number),
        [
            section("Runs", Table(columns, rows), _mixed(comparable)),
            section("Reached", pictures.intervals(reached, number or "", "Each run with its 95 % interval")),
            section("Quality against cost", *pareto),
        ],
    )


def _lead(runs: Sequence[Records], comparable: Sequence[tuple[Records, Judged]], number: str | None) -> str:
    finished = sum(run.manifest.get("status") == "completed" for run in runs)
    count = f"{finished} of {len(runs)} runs are completed"
    if not comparable:
        return f"{count}; none has a score."
    run, found = comparable[0]
    return f"{count}; {run.path.name} has the best {number}, {words.score(found.value)}."


def _mixed(comparable: Sequence[tuple[Records, Judged]]) -> Text | None:
    """Scores of other rows, or of rows by which weights were chosen, are not to be compared."""
    if len({tuple(sorted((run.manifest.get("data") or {}).values())) for run, _ in comparable}) > 1:
        return Text("These runs read different data: their scores are not of the same rows.", "warning")
    if len({found.evaluation.name for _, found in comparable}) > 1:
        return Text("Some scores are of test rows and some of validation rows.", "warning")
    return Text("Whether a difference is more than chance: tunery compare RUN RUN.", "note") if comparable else None


def _row(run: Records, found: Judged | None) -> dict[str, Any]:
    manifest = run.manifest
    name = run.path.name
    row: dict[str, Any] = {
        "run": Link(name, f"{name}/{pages.HTML}") if (run.path / pages.HTML).is_file() else name,
        "status": manifest.get("status"),
        "model": run.named("model").rpartition("/")[2],
        "task": run.named("task"),
        "method": run.named("method"),
    }
    if found:
        row[found.number] = found.value
        row["95 % interval"] = " – ".join(map(words.number, found.interval)) if found.interval else None
        row["rows"] = found.evaluation.name
    for key, title, unit in COSTS:
        value = manifest.get(key)
        row[title] = (words.duration if unit == "seconds" else words.size)(value) if value else None
    relative = (manifest.get("forgetting") or {}).get("relative")
    row["forgetting"] = f"{relative:+.1%}" if isinstance(relative, int | float) else None
    return row


def _any(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def _picture(
    comparable: Sequence[tuple[Records, Judged]], key: str, title: str, unit: Unit, number: str, sign: int
) -> Picture | None:
    points = [
        Point(run.path.name, float(run.manifest[key]), found.value, *(found.interval or (None, None)))
        for run, found in comparable
        if run.manifest.get(key)
    ]
    if len(points) < 2:
        return None
    caption = f"{number} and {title}; the line joins the runs that none beats in both"
    return pictures.pareto(points, title, number, caption, higher_is_better=sign > 0, unit=unit)
