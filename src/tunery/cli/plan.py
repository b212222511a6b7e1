"""tunery plan"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, size, table

if TYPE_CHECKING:
    from tunery.config import Config


def show(result: dict[str, Any]) -> None:
    machine = result["machine"]
    memory = f", {size(machine['memory_bytes'])} of memory free" if machine["memory_bytes"] else ""
    cpus = "1 CPU" if machine["cpus"] == 1 else f"{machine['cpus']} CPUs"
    click.echo(
        f"\n{result['model']} ({result['parameters'] / 1e6:.1f} M parameters), task {result['task']}, "
        f"{result['rows']['train']:,} training rows; {machine['device']}, {machine['dtype']}, {cpus}{memory}"
    )
    _rules(result["rules"])
    _measured([c for c in result["candidates"] if c["status"] == "measured"])
    _others([c for c in result["candidates"] if c["status"] != "measured"])
    if result["recommended"]:
        click.echo(f"\nrecommended: {result['recommended']}, the first of the rules that was measured and fits")
        click.echo(f"  {result['command']}")
    if "written" in result:
        click.echo(f"written: {result['written']}")


def _rules(rules: Sequence[Mapping[str, Any]]) -> None:
    click.echo("\nrules (those with * apply here and give points)")
    rows = [
        {"": "*" if r["applies"] else "", "rule": r["rule"], "when": r["when"], "points": points_of(r["points"])}
        for r in rules
    ]
    table(rows, ["", "rule", "when", "points"])
    click.echo()
    for rule in rules:
        if rule["applies"]:
            click.echo(f"  {rule['rule']}: {rule['why']}")
    for rule in rules:
        if rule["applies"] and rule["advice"]:
            click.echo(f"  → {rule['advice']}")


def points_of(points: Mapping[str, int]) -> str:
    return ", ".join(f"{method} {number:+d}" for method, number in points.items()) or "–"


def _measured(candidates: Sequence[Mapping[str, Any]]) -> None:
    if not candidates:
        return
    click.echo("\nmeasured on your rows (in brackets: the interval)")
    rows = []
    for each in candidates:
        found = each["predicted"]
        step = {name: span["value"] for name, span in each["seconds_per_step"].items()}
        rows.append(
            {
                "method": each["method"],
                "points": each["points"],
                "s/step, median": f"{step['median']:.2f}" if "median" in step else None,
                "longest": f"{step['longest']:.2f}" if "longest" in step else None,
                "steps": each["steps"],
                "whole run": _spanned(found["seconds"], found["seconds_interval"], duration),
                "peak memory": _spanned(found["peak_memory_bytes"], found["peak_memory_interval"], size),
                "trained": f"{each['trainable_parameters']:,}",
                "saved": size(each["adapter_bytes"]),
            }
        )
    table(rows, list(rows[0]))
    click.echo("\nsettings to start from")
    rows = [
        {
            "method": each["method"],
            "train.lr": f"{each['suggested']['lr']:g}",
            "train.epochs": f"{each['suggested']['epochs']:g}",
            "train.batch_size": each["suggested"]["batch_size"],
            "whole run": duration(each["suggested"]["seconds"]),
        }
        for each in candidates
    ]
    table(rows, list(rows[0]))


def _spanned(value: float | None, ends: Sequence[float] | None, words: Any) -> str | None:
    return None if value is None or ends is None else f"{words(value)} ({words(ends[0])} to {words(ends[1])})"


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _others(candidates: Sequence[Mapping[str, Any]]) -> None:
    for each in candidates:
        if each["status"] != "not measured":
            click.echo(f"\n{each['method']}: {each['status']}: {each['problem']}")
            if each.get("change"):
                click.echo(f"  → change {', '.join(each['change'])}")
    if rest := [f"{c['method']} ({c['points']})" for c in candidates if c["status"] == "not measured"]:
        click.echo(f"\nnot measured, with their points: {', '.join(rest)}")


def _bytes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?)b?\s*", text.lower())
    if found is None or found[1].count(".") > 1 or not float(found[1]):
        raise click.BadParameter(f"{text!r} is no size; write 8GB or 500MB, for example")
    return int(float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}[found[2]])


@click.command()
@config_arguments
@click.option("--methods", help="measure these, separated by commas; default: the first of the rules")
@click.option("--variants", is_flag=True, help="many variants on one base are needed")
@click.option("--latency", is_flag=True, help="answers must come as fast as from the base alone")
@click.option("--memory", callback=_bytes, metavar="SIZE", help="plan for so much memory, 8GB for example")
@click.option("--no-measure", is_flag=True, help="only the rules, nothing is measured")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="write the plan to this file too, as JSON")
@verb(show)
def command(
    arguments: tuple[str, ...],
    methods: str | None,
    variants: bool,
    latency: bool,
    memory: int | None,
    no_measure: bool,
    out: Path | None,
) -> dict[str, Any]:
    """Recommend methods for this data, model and machine, and measure what each would cost.

    Reads the configuration as train does. A table of rules puts the methods in order; the first ones make a few real
    steps, each in a process of its own, which tells time, memory and size with an interval. Nothing is trained and
    nothing written, but what was measured is kept in the cache: runs of that configuration are predicted, and the
    prediction is compared with what they took.
    """
    config = read_config(arguments)
    from tunery.decide.plan import Wishes, plan

    names = tuple(name.strip() for name in methods.split(",") if name.strip()) if methods else ()
    result = plan(config, Wishes(names, variants, latency, memory, not no_measure), out)
    best = next((c for c in result["candidates"] if c["method"] == result["recommended"]), None)
    if best is not None:
        result["command"] = _command(arguments, best, config)
    return result


def _command(arguments: Sequence[str], best: Mapping[str, Any], config: Config) -> str:
    """The training that is recommended, as a command line; ``config`` is what the arguments say."""
    settings = {f"train.{key}": f"{value:g}" for key, value in best["suggested"].items() if key != "seconds"}
    if config.train.max_steps is not None:
        settings["train.max_steps"] = "null"
    if config.train.accumulate != 1:
        settings["train.accumulate"] = "1"
    other = best["method"] != config.method_name

    def stays(argument: str) -> bool:
        key = argument.partition("=")[0]
        return key not in settings and not (other and key.partition(".")[0] == "method")

    kept = [a for a in arguments if "=" not in a or stays(a)]
    named = any(a.partition("=")[0] in ("method", "method.name") for a in kept)
    wanted = [*([] if named else [f"method={best['method']}"]), *(f"{key}={value}" for key, value in settings.items())]
    return shlex.join(["tunery", "train", *kept, *wanted])
