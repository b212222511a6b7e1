"""tunery race"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, size, table
from tunery.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """``90``, ``90s``, ``15m`` or ``1h30m`` in seconds. Raises ConfigError.

    >>> seconds("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{text!r} is no time", "write 15m, 90s or 1h30m", "--budget")
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if total <= 0:
        raise ConfigError("no time at all", "write 15m, 90s or 1h30m", "--budget")
    return total


def show(result: dict[str, Any]) -> None:
    click.echo()
    decided, number = result["decided_on"] or {}, result["metric"]["name"]
    beside = f"{decided['split']} {decided['measure']}" if decided.get("measure", number) != number else None
    forgetting = any(row["forgetting"] is not None for row in result["table"])
    rows = []
    for row in result["table"]:
        kept, memory, forgot = row["adapter_bytes"], row["peak_memory_bytes"], row["forgetting"]
        rows.append(
            {
                "entrant": row["name"],
                "": row["state"] if row["kind"] == "method" else row["kind"],
                f"validation {number}": row["score"],
                f"test {number}": row["test"],
                **({beside: row["decided"]} if beside else {}),
                "trained": None if row["share"] is None else f"{row['share']:.0%}",
                "seconds": None if row["seconds"] is None else f"{row['seconds']:.0f}",
                "memory": None if memory is None else size(memory),
                "kept": None if kept is None else size(kept),
                **({"forgetting": None if forgot is None else f"{forgot:+.1%}"} if forgetting else {}),
            }
        )
    table(rows, list(rows[0]))
    for row in result["table"]:
        if row["reason"]:
            click.echo(f"{row['name']}: {row['reason']}")
    for item in result["left_out"]:
        click.echo(f"{item['name']}: {item['reason']}")
    click.echo(f"shuffled labels: {result['controls']['shuffled']['verdict']}")
    for line in result["warnings"]:
        click.echo(f"\n{line}")
    click.echo(f"\n{result['recommendation']}")
    click.echo(
        f"\n{result['seconds']:.0f} s of {result['budget']:.0f} s\nrace: {result['race']}\nreport: {result['report']}"
    )


@click.command()
@click.option("--budget", metavar="TIME", help="wall time for everything: 15m (default), 90s, 1h30m")
@click.option(
    "--methods", metavar="A,B,…", help="entrants; default: all methods that fit, and cloze where there are labels"
)
@click.option("--workers", type=click.IntRange(1), help="trainings at a time; default: by CPUs and memory")
@click.option("--resume", "folder", metavar="FOLDER", help="go on with an interrupted race; --budget then adds time")
@config_arguments
@verb(show)
def command(
    budget: str | None, methods: str | None, workers: int | None, folder: str | None, arguments: tuple[str, ...]
) -> dict[str, Any]:
    """Run methods against each other within a budget of time; say which to take, and how sure that is.

    All train on the same rows; the best third goes on, the best of those to the end (successive halving on the
    validation rows). What needs no model, the base without training and a run on shuffled labels run along. Test rows,
    if there are any, are read once, for the finalists. Reads CONFIG (or ./tunery.yaml) as tunery train does.
    """
    time = None if budget is None else seconds(budget)
    config = None if folder else read_config(arguments)
    if folder and (arguments or methods):
        raise click.UsageError("--resume goes on with the race's own configuration and methods")
    from tunery.decide import race

    if config is None:
        path = race.resume(str(folder), time, workers)
    else:
        names = [name.strip() for name in methods.split(",") if name.strip()] if methods else None
        path = race.race(config, time or DEFAULT, names, workers)
    return summary(path)


def summary(path: Path) -> dict[str, Any]:
    """What ``race --json`` prints."""
    from tunery.decide import race

    return {"race": str(path), "report": str(path / "report.html"), **race.load(path)}


DEFAULT = 900.0
"""Seconds."""
