"""``report.html`` and ``report.md`` of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery.report import pages, pictures, words
from tunery.report.page import Block, Link, Page, Section, Table, Text, facts, section


def write(folder: Path, record: Mapping[str, Any]) -> Path:
    return pages.write(folder, page(folder, record))


def page(folder: Path, record: Mapping[str, Any]) -> Page:
    """Of a completed search, from what ``search.json`` holds."""
    best, monitor = record["best"], record["monitor"]
    settings = ", ".join(f"{key}={value}" for key, value in best["settings"].items())
    lead = (
        f"Of {len(record['results'])} trials, trial {best['trial']} did best: {monitor} {best['value']:.4f} on the "
        f"validation rows, with {settings}."
    )
    return Page(
        f"Search: {record['about']['task']}, {record['about']['method']}",
        lead,
        [
            section("Trials", _table(folder, record), _caution(record)),
            *_test(folder, record),
            section("What made the difference", *_keys(record)),
            section(
                "The search",
                facts(
                    {
                        "sampler": record["sampler"],
                        "pruner": record["pruner"],
                        "seed": record["seed"],
                        "workers": record["workers"],
                        "taken": words.duration(record["seconds_spent"]),
                        **{f"range of {key}": str(item) for key, item in record["space"].items()},
                        "training rows": record["about"]["rows"],
                        "parameters of the base": record["about"]["parameters"],
                    }
                ),
            ),
        ],
    )


def _table(folder: Path, record: Mapping[str, Any]) -> Table:
    rows: list[dict[str, Any]] = []
    for trial in ranked(record["results"], record["higher_is_better"]):
        report = folder / str(trial["run"]) / pages.HTML
        name: Any = Link(str(trial["trial"]), f"{trial['run']}/{pages.HTML}") if report.is_file() else trial["trial"]
        rows.append(
            {
                "trial": name,
                "status": trial["status"],
                record["monitor"]: trial["value"],
                "seconds": trial["seconds"],
                **{key: words_of(value) for key, value in trial["settings"].items()},
                "note": trial["problem"] or trial["source"],
            }
        )
    columns = ["trial", "status", record["monitor"], "seconds", *record["space"], "note"]
    caption = f"{record['monitor']} on the validation rows, for pruned trials at the evaluation where they ended."
    return Table(columns, rows, caption, [0])


def ranked(trials: Sequence[Mapping[str, Any]], higher_is_better: bool) -> list[Mapping[str, Any]]:
    """The best first; then those that were pruned; then those without a number."""
    sign = -1 if higher_is_better else 1
    order = {"completed": 0, "pruned": 1}

    def rank(trial: Mapping[str, Any]) -> tuple[float, float]:
        value = trial["value"]
        return order.get(trial["status"], 2), trial["trial"] if value is None else sign * value

    return sorted(trials, key=rank)


def _caution(record: Mapping[str, Any]) -> Text:
    text = "The best of many trials looks a little better on the rows it was chosen by than it is."
    return Text(text if record.get("test") else f"{text} Rows that no trial has seen (data.test) would tell.", "note")


def _test(folder: Path, record: Mapping[str, Any]) -> list[Section]:
    test = record.get("test") or {}
    if not test.get("metrics"):
        return []
    columns = {"base": test["base"] or {}, **test["baselines"], "best": test["metrics"]}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    rows = [{"number": name, **{who: values.get(name) for who, values in columns.items()}} for name in names]
    more = Text(f"The settings were trained once more for this, in {test['run']}.")
    return [section("On the test rows, which no trial has seen", Table(["number", *columns], rows), more)]


def _keys(record: Mapping[str, Any]) -> list[Block | None]:
    """How important each key was, and every trial by each key that is a number."""
    found: list[Block | None] = []
    if record["importance"]:
        shares = {key: f"{share:.0%}" for key, share in record["importance"].items()}
        found.append(facts(shares, "Share of the differences between trials that a key explains (fANOVA)."))
    for key, item in record["space"].items():
        log = isinstance(item, Mapping) and "log" in item
        series = {
            status: [
                (math.log10(trial["settings"][key]) if log else float(trial["settings"][key]), float(trial["value"]))
                for trial in record["results"]
                if trial["status"] == status and trial["value"] is not None and _number(trial["settings"].get(key))
            ]
            for status in ("completed", "pruned")
        }
        caption = f"{record['monitor']} of each trial by {key}"
        found.append(pictures.curves(series, f"log10 of {key}" if log else key, record["monitor"], caption, dots=True))
    return found or [Text("Too few trials to say.")]


def words_of(value: Any) -> str:
    """A setting for a table: a small learning rate keeps its digits.

    >>> [words_of(value) for value in (0.00016943, 8, None, ["q", "v"])]
    ['0.0001694', '8', 'null', "['q', 'v']"]
    """
    return f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
