"""``report.html`` and ``report.md`` of a race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery.report import pages, pictures, words
from tunery.report.page import Block, Link, Page, Section, Table, Text, facts, section

_COLUMNS = (
    "entrant", "state", "validation", "test", "decided", "trained", "seeds", "seconds", "memory", "kept", "forgetting",
    "front",
)  # fmt: skip
_COSTS: tuple[tuple[str, str, pictures.Unit], ...] = (
    ("seconds", "seconds of training", "seconds"),
    ("peak_memory_bytes", "peak memory", "bytes"),
    ("adapter_bytes", "size of what is kept", "bytes"),
    ("forgetting", "loss on general text, relative change", "share"),
)


def write(folder: Path, state: Mapping[str, Any]) -> Path:
    return pages.write(folder, page(folder, state))


def page(folder: Path, state: Mapping[str, Any]) -> Page:
    rows = state["rows"]
    title = f"Race: {state['base']}, {state['config']['task']['name']}"
    return Page(
        title,
        state["recommendation"],
        [
            section("Who reached what", _table(folder, state), _how(state)),
            section("What it costs", *(_picture(state, *cost) for cost in _COSTS)),
            section("How sure is that?", _differences(state)),
            section("Controls", *_controls(state)),
            _left_out(state),
            section(
                "The race",
                facts(
                    {
                        "budget": words.duration(state["budget"]),
                        "taken": words.duration(state["seconds"]),
                        "seeds": ", ".join(map(str, state["seeds"])),
                        **{f"{split} rows": count for split, count in rows.items()},
                        "steps of a whole training": state["plan"]["steps"],
                    }
                ),
            ),
        ],
        state["warnings"],
    )


def _table(folder: Path, state: Mapping[str, Any]) -> Table:
    table = state["table"]
    decided, number = state["decided_on"] or {}, state["metric"]["name"]
    beside = decided.get("measure", number) != number
    forgetting = any(entry["forgetting"] is not None for entry in table)
    rows = []
    for entry in table:
        name: Any = entry["name"]
        if entry["runs"] and (folder / entry["runs"][0] / pages.HTML).is_file():
            name = Link(entry["name"], f"{entry['runs'][0]}/{pages.HTML}")
        rows.append(
            {
                "entrant": name,
                "state": entry["state"] if entry["kind"] == "method" else f"{entry['kind']}, {entry['state']}",
                "validation": entry["score"],
                "test": entry["test"],
                "decided": entry["decided"],
                "trained": None if entry["share"] is None else f"{entry['share']:.0%}",
                "seeds": entry["seeds"],
                "seconds": entry["seconds"],
                "memory": _size(entry["peak_memory_bytes"]),
                "kept": _size(entry["adapter_bytes"]),
                "forgetting": None if entry["forgetting"] is None else f"{entry['forgetting']:+.1%}",
                "front": entry["pareto"],
            }
        )
    strong = [number for number, entry in enumerate(table) if entry["name"] == state["winner"]]
    caption = f"{number} on the validation rows decides who goes on. Baselines need no model."
    if beside:
        caption += f" Decided by: {decided['measure']} on the {decided['rows']} {decided['split']} rows."
    hidden = {name for name, shown in (("decided", beside), ("forgetting", forgetting)) if not shown}
    return Table([name for name in _COLUMNS if name not in hidden], rows, caption, strong)


def _size(value: float | None) -> str | None:
    return None if value is None else words.size(value)


def _how(state: Mapping[str, Any]) -> Text:
    decided = state["decided_on"]
    if not decided:
        return Text("One number for all rows decided.")
    if decided["split"] == "test":
        return Text(f"The test rows were read once, for the finalists: {len(state['test_rows_read_for'])} trainings.")
    return Text("There are no test rows: the validation rows chose and judged, so the best score is a little too good.")


def _picture(state: Mapping[str, Any], key: str, label: str, unit: pictures.Unit) -> Block | None:
    points = [
        pictures.Point(row["name"], row[key], row["score"])
        for row in state["table"]
        if row["score"] is not None and row[key] is not None and row["kind"] == "method"
    ]
    number = state["metric"]
    caption = f"{number['name']} against {label}; on the line is what nothing beats in both"
    more = number["higher_is_better"]
    return pictures.pareto(points, label, number["name"], caption, higher_is_better=more, unit=unit)


def _differences(state: Mapping[str, Any]) -> Table | Text:
    if not state["differences"]:
        return Text("Nothing to compare.")
    decided = state["decided_on"]
    rows = [
        {
            "pair": f"{d['first']} − {d['second']}",
            decided["measure"]: d["difference"],
            "from": d["low"],
            "to": d["high"],
            "": "tie" if d["tie"] else "",
        }
        for d in state["differences"]
    ]
    caption = f"95 % intervals of the paired bootstrap over {decided['rows']} {decided['split']} rows"
    return Table(["pair", decided["measure"], "from", "to", ""], rows, caption)


def _controls(state: Mapping[str, Any]) -> Sequence[Block]:
    found = state["controls"]
    shuffled = found["shuffled"]
    text = f"Trained on shuffled labels: {shuffled['verdict']}"
    if shuffled.get("rows"):
        text += (
            f" ({shuffled['right']} of {shuffled['rows']} rows right, most frequent label {shuffled['majority']:.0%})"
        )
    leaks = state["leaks"]
    ledger = f"The ledger: {leaks['rows']} rows stand in two splits, {leaks['near']} nearly do."
    others = [Text(f"{name}: {why}.") for name, why in found["not_applicable"].items()]
    return [Text(f"{text}."), Text(ledger), *others]


def _left_out(state: Mapping[str, Any]) -> Section:
    failed = [row for row in state["table"] if row["reason"]]
    rows = [{"entrant": item["name"], "why": item["reason"]} for item in [*state["left_out"], *failed]]
    return section(
        "Who did not take part, or not to the end", Table(["entrant", "why"], rows) if rows else Text("All did.")
    )
