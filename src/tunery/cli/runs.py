"""tunery runs"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table


def show(result: list[dict[str, Any]]) -> None:
    if not result:
        click.echo("no runs yet")
        return
    table([{**r, "metrics": _short(r["metrics"])} for r in result], ["name", "status", "steps", "metrics"])


def _short(metrics: dict[str, float] | None) -> str:
    return ", ".join(f"{k} {v:.4f}" for k, v in list((metrics or {}).items())[:3])


@click.command()
@click.argument("folder", default="runs")
@verb(show)
def command(folder: str) -> list[dict[str, Any]]:
    """List the runs in FOLDER (runs/), newest last."""
    from tunery.rundir import find

    found = []
    for run in find(Path(folder)):
        manifest = run.manifest()
        found.append(
            {
                "name": run.path.name,
                "path": str(run.path),
                "status": manifest.get("status"),
                "steps": manifest.get("steps"),
                "started": manifest.get("started"),
                "base": manifest.get("base", {}).get("name"),
                "metrics": manifest.get("metrics"),
                "test_metrics": manifest.get("test_metrics"),
            }
        )
    return found
