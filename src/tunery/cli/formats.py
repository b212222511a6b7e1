"""tunery formats"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table


def show(result: list[dict[str, Any]]) -> None:
    rows = [{**r, "columns": ", ".join(r["columns"]), "optional": ", ".join(r["optional"])} for r in result]
    table(rows, ["name", "columns", "optional", "task", "summary"])


@click.command()
@verb(show)
def command() -> list[dict[str, Any]]:
    """List the data formats and the columns they need."""
    from tunery import registry

    found = []
    for name in registry.names("format"):
        form = registry.get("format", name)
        found.append(
            {
                "name": name,
                "columns": list(form.columns),
                "optional": list(form.optional),
                "task": form.task,
                "summary": form.summary,
            }
        )
    return found
