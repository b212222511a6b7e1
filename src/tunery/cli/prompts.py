"""tunery prompts"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, table

_WIDTH = 72
"""Columns of a prompt in a table."""
NONE = "no system prompt"


def show(result: dict[str, Any]) -> None:
    click.echo()
    metric = result["metric"]
    proposed = result.get("proposed") or {}
    click.echo(f"{result['tried']} prompts tried, the best on all {result['rows']} development rows")
    if proposed.get("asked"):
        dropped = ", ".join(f"{count} {reason}" for reason, count in proposed["dropped"].items())
        used = proposed["asked"] - sum(proposed["dropped"].values())
        because = f" (dropped: {dropped})" if dropped else ""
        click.echo(f"the model wrote {proposed['asked']}, {used} of use{because}")
    for reason, count in (result.get("unusable") or {}).items():
        click.echo(f"{count} could not be used: {reason}")
    click.echo()
    rows = [{metric: found["value"], "loss": found["loss"], **_described(found)} for found in result["top"]]
    table(rows, [metric, *(["loss"] if metric != "loss" else []), "from", "prompt"])
    click.echo("\nthe best:")
    for line in (result["best"]["prompt"] or NONE).splitlines():
        click.echo(f"  {line}")
    if words := result["best"].get("verbaliser"):
        click.echo("  words: " + "; ".join(f"{label}: {', '.join(every)}" for label, every in words.items()))
    click.echo("\nthe ladder:")
    rungs = result["ladder"]
    rows = [{"rung": rung["rung"], metric: rung["value"], "rows": _rows(rung), "": _note(rung)} for rung in rungs]
    table(rows, ["rung", metric, "rows", ""])
    click.echo(f"\n{result['verdict']}")
    click.echo(f"\nconfiguration: {result['config']}\nnext: {result['next']}")


def _described(found: dict[str, Any]) -> dict[str, str]:
    text = (found["prompt"] or NONE).replace("\n", "\\n")
    text = text if len(text) <= _WIDTH else f"…{text[1 - _WIDTH :]}"
    words = found.get("verbaliser")
    if words and len(words) <= 3:
        text += "  [" + " | ".join(", ".join(every[:3]) for every in words.values()) + "]"
    return {"from": found["origin"] + (" calibrated" if found.get("calibrate") else ""), "prompt": text}


def _rows(rung: dict[str, Any]) -> str | None:
    return f"{rung['rows']} {rung['on']}" if rung.get("rows") else None


def _note(rung: dict[str, Any]) -> str:
    if "problem" in rung:
        return f"failed: {rung['problem']}"
    if rung["reached"]:
        return "reaches the target"
    return rung["command"] if rung["value"] is None else ""


@click.command()
@config_arguments
@click.option("--templates", type=click.Path(path_type=Path), help="file with prompts of your own, one a line")
@click.option("--rows", type=click.IntRange(2), default=256, show_default=True, help="development rows")
@click.option("--proposals", type=click.IntRange(0), default=24, show_default=True, help="prompts the model writes")
@click.option("--words", type=click.IntRange(0), default=4, show_default=True, help="label words for each template")
@click.option("--shots", type=click.IntRange(0), default=4, show_default=True, help="solved examples in the prompt")
@click.option("--draws", type=click.IntRange(0), default=4, show_default=True, help="random choices of them")
@click.option("--metric", help="number to judge by; default: what the task stops early by")
@click.option("--target", type=float, help="the value that is enough")
@click.option("--ladder", is_flag=True, help="train, cheapest first, if no prompt reaches the target")
@verb(show)
def command(arguments: tuple[str, ...], templates: Path | None, **options: Any) -> dict[str, Any]:
    """Find the prompt instead of the weights.

    Tries prompts written by hand, by you and by the model itself, words for the labels, and solved examples, on rows
    of train and validation. Writes a folder under runs/ with prompts.json and best.yaml, which tunery train takes.
    """
    config = read_config(arguments)
    from tunery.decide import prompts
    from tunery.decide.candidates import read

    given = tuple(read(templates)) if templates else ()
    return prompts.summary(prompts.find(config, prompts.Options(given=given, **options)))
