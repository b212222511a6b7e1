"""tunery methods"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table


def show(result: list[dict[str, Any]] | dict[str, Any]) -> None:
    if isinstance(result, list):
        table(result, ["name", "merges", "summary"])
        return
    click.echo(f"{result['name']}: {result['summary']}\n\nsaves   {result['saves']}")
    click.echo(f"merges  {'yes' if result['merges'] else 'no'}\npaper   {result['paper']}\n")
    table(result["config"], ["key", "default", "description"])


@click.command()
@click.argument("name", required=False)
@verb(show)
def command(name: str | None) -> list[dict[str, Any]] | dict[str, Any]:
    """List the tuning methods, or describe one with all its keys."""
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
    fields = registry.config_class("method", name).model_fields if name in registry.names("method") else {}
    found = describe(name)
    found["config"] = [
        {"key": f"method.{key}", "default": field.default, "description": field.description}
        for key, field in fields.items()
        if key != "name"
    ]
    return found
