"""tunery report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb


def show(result: list[dict[str, Any]]) -> None:
    for found in result:
        click.echo(f"{found['sentence']}\n{found['report']}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@verb(show)
def command(runs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Write report.html and report.md of each RUN anew, and its model card.

    A run writes them at its end (run.report); this is for runs that have changed since, or that were made by an
    earlier version. RUN may also be a folder of runs: its report puts them side by side. No model is loaded.
    """
    return [_write(Path(run)) for run in runs]


def _write(path: Path) -> dict[str, Any]:
    from tunery.report import folder, run
    from tunery.rundir import RunDir, find

    many = path.is_dir() and not (path / "manifest.json").exists() and find(path)
    file, sentence = folder.write(path) if many else run.write(RunDir.open(path))
    return {"run": str(path), "report": str(file), "sentence": sentence}
