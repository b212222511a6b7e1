"""tunery compare"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table

_CUT = 160  # characters of a text that are printed
_CLASSES = 8  # classes that are printed


def show(result: dict[str, Any]) -> None:
    of = "" if result["data"] == "test rows" else "rows of "
    click.echo(f"{result['rows']} {of}{result['data']}\n")
    spread = any(len(side["runs"]) > 1 for side in result["sides"])
    sides = [
        {"": side["name"], result["metric"]: side["value"], "seeds": ", ".join(map(str, side["seeds"]))}
        | ({"from": min(side["values"]), "to": max(side["values"])} if spread else {})
        for side in result["sides"]
    ]
    table(sides, ["", result["metric"], *(("from", "to") if spread else ()), "seeds"])
    for pair in result["pairs"]:
        _pair(pair, result["judged_by"], result["printed"])
    for note in result["notes"]:
        click.echo(f"\n{note}")
    if result.get("output"):
        click.echo(f"\nall changed rows: {result['output']}")


def _pair(pair: dict[str, Any], judged_by: str, printed: int) -> None:
    click.echo(f"\n{pair['verdict']}")
    if pair["mcnemar"]:
        counts = pair["mcnemar"]
        click.echo(
            f"right only in {pair['first']}: {counts['first_only']} rows, only in {pair['second']}: "
            f"{counts['second_only']}; McNemar p = {counts['p']:.4f}"
        )
    head = [pair["first"], pair["second"]]
    if pair["classes"]:
        more = len(pair["classes"]) - _CLASSES
        title = "recall by class" + (f", the {_CLASSES} that differ most of {len(pair['classes'])}" if more > 0 else "")
        _parts(title, "class", [(part["class"], part) for part in pair["classes"][:_CLASSES]], head)
    if pair["lengths"]:
        spans = [(f"{part['characters'][0]}-{part['characters'][1]}", part) for part in pair["lengths"]]
        _parts(f"{judged_by} by length of the input", "characters", spans, head)
    for name in ("fixed", "broken"):
        _rows(name, pair, printed)


def _parts(title: str, name: str, parts: list[tuple[str, dict[str, Any]]], head: list[str]) -> None:
    click.echo(f"\n{title}")
    rows = []
    for label, part in parts:
        values = {name: label, "rows": part["rows"], head[0]: part["first"], head[1]: part["second"]}
        low, high = part["interval"]
        values["difference"] = f"{part['difference']:+.4f}"
        values["95 % interval"] = f"{low:+.4f} to {high:+.4f}" + (" tie" if part["tie"] else "")
        rows.append(values)
    table(rows, [name, "rows", *head, "difference", "95 % interval"])


def _rows(name: str, pair: dict[str, Any], printed: int) -> None:
    found = pair[name]
    what = "better" if name == "fixed" else "worse"
    click.echo(f"\n{name}: {found['count']} rows on which {pair['second']} is {what}")
    for row in found["rows"][:printed]:
        click.echo(f"  {row['where']}  {_cut(row['input'])}")
        said = f"{pair['first']}: {_cut(row['first'])}; {pair['second']}: {_cut(row['second'])}"
        click.echo(f"    right: {_cut(row['reference'])}; {said}" if row["reference"] else f"    {said}")
    if found["count"] > printed > 0:
        click.echo(f"  … and {found['count'] - printed} more (--rows N, --out FILE)")


def _cut(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " | ".join(map(_cut, value))
    text = " ".join((f"{value:.4f}" if isinstance(value, float) else str(value)).split())
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"


@click.command()
@click.argument("runs", nargs=-1, metavar="RUN RUN...")
@click.option("--group", "groups", multiple=True, metavar="NAME=RUN,RUN", help="runs of one method, instead of RUN RUN")
@click.option("--data", multiple=True, help="file of test rows for every run to answer; default: those of training")
@click.option("--metric", help="number to compare by; default: the first that the runs report")
@click.option("--rows", default=3, show_default=True, type=click.IntRange(0), help="fixed and broken rows to print")
@click.option("--out", help="JSONL file for all fixed and broken rows")
@verb(show)
def command(
    runs: tuple[str, ...],
    groups: tuple[str, ...],
    data: tuple[str, ...],
    metric: str | None,
    rows: int,
    out: str | None,
) -> dict[str, Any]:
    """Compare runs on the same test rows: is one really better, or is it a tie?

    Every RUN is compared with the first. Runs that differ in train.seed alone are one method; from two seeds on the
    interval covers seeds as well as rows.
    """
    from tunery.decide.compare import compare
    from tunery.run.aliases import resolve
    from tunery.rundir import write_jsonl

    result = compare([str(resolve(run)) for run in runs], groups=_groups(groups), data=data, metric=metric)
    result |= {"printed": rows, "output": out}
    if out:
        changed = [
            {"kind": name, "sides": [pair["first"], pair["second"]], **row}
            for pair in result["pairs"]
            for name in ("fixed", "broken")
            for row in pair[name]["rows"]
        ]
        write_jsonl(Path(out), json.loads(json.dumps(changed, default=str)))
    return result


def _groups(given: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        name, mark, runs = text.partition("=")
        members = [run.strip() for run in runs.split(",") if run.strip()]
        if not mark or not name or not members:
            raise click.UsageError(f"--group {text}: write NAME=RUN,RUN")
        if name in found:
            raise click.UsageError(f"--group {name} is there twice")
        found[name] = members
    return found
