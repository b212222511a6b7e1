"""tunery metrics"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table


@click.command()
@verb(lambda result: table(result, ["name", "kind", "higher_is_better", "summary"]))
def command() -> list[dict[str, Any]]:
    """List the numbers that eval.metrics may name."""
    from tunery import registry

    found = []
    for name in registry.names("metric"):
        metric = registry.get("metric", name)
        for number in metric.numbers:
            found.append(
                {
                    "name": number.name,
                    "kind": metric.kind,
                    "higher_is_better": number.higher_is_better,
                    "summary": number.summary,
                }
            )
    return found
