"""tunery methods"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import cell, table

SIZES = (20_000_000, 150_000_000, 1_000_000_000, 8_000_000_000)
"""Parameters of the bases for which learning rates are shown."""


def show(result: list[dict[str, Any]] | dict[str, Any]) -> None:
    if isinstance(result, list):
        table(result, ["name", "merges", "summary"])
        return
    click.echo(f"{result['name']}: {result['summary']}\n\npaper   {result['paper']}\nsaves   {result['saves']}")
    click.echo(f"merges  {cell(result['merges'])}\n")
    if result["config"]:
        table(result["config"], ["key", "default", "description"])
        click.echo()
    families = dict.fromkeys(each["family"] for each in result["learning_rates"])
    rows = {family: {"learning rate for": family} for family in families}
    for each in result["learning_rates"]:
        rows[each["family"]][_size(each["parameters"])] = f"{each['lr']:g}"
    table(list(rows.values()), ["learning rate for", *map(_size, SIZES)])
    if result["refuses"]:
        click.echo("\nrefuses, on the tiny models of the common suite")
    for refusal in result["refuses"]:
        click.echo(f"  {', '.join(refusal['tasks'])} with {', '.join(refusal['models'])}: {refusal['reason']}")


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:g} B" if parameters >= 1e9 else f"{parameters / 1e6:g} M"


@click.command()
@click.argument("name", required=False)
@verb(show)
def command(name: str | None) -> list[dict[str, Any]] | dict[str, Any]:
    """List the tuning methods, or describe one: its keys, learning rates, and what it refuses."""
    from tunery import registry

    def describe(each: str) -> dict[str, Any]:
        method = registry.get("method", each)
        return {
            "name": each,
            "summary": method.summary,
            "saves": method.saves,
            "merges": method.merges,
            "paper": method.paper,
        }

    if name is None:
        return [describe(each) for each in registry.names("method")]
    found = describe(name)
    method = registry.get("method", name)
    found["config"] = [
        {"key": f"method.{key}", "default": field.default, "description": field.description}
        for key, field in method.Config.model_fields.items()
        if key != "name"
    ]
    found["learning_rates"] = learning_rates(method(method.Config()))
    found["refuses"] = json.loads(resources.files("tunery.methods").joinpath("refusals.json").read_text("utf-8"))[name]
    return found


def learning_rates(method: Any) -> list[dict[str, Any]]:
    """Where training starts, by kind and size of the base, with the method's other keys as they are."""
    return [
        {"family": family, "parameters": parameters, "lr": method.default_lr(parameters, family)}
        for family in ("encoder", "decoder", "encoder-decoder")
        for parameters in SIZES
    ]
