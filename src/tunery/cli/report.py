"""tunery report"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb

DECISIONS = {"race.json": "tunery.decide.race_report", "search.json": "tunery.decide.search_report"}
"""What a folder holds that a decision has made, and the module whose ``page(folder, record)`` shows it."""


def show(result: list[dict[str, Any]]) -> None:
    for found in result:
        click.echo(f"{found['sentence']}\n{found['report']}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@verb(show)
def command(runs: tuple[str, ...]) -> list[dict[str, Any]]:
    """Write report.html and report.md of each RUN anew, and its model card.

    A run writes them at its end (run.report); this is for runs that have changed since, or that were made by an
    earlier version. RUN may also be the folder of a race or search, or any folder of runs: its report puts them
    side by side. No model is loaded.
    """
    return [_write(Path(run)) for run in runs]


def _write(path: Path) -> dict[str, Any]:
    from tunery.report import folder, run
    from tunery.run.aliases import resolve
    from tunery.rundir import RunDir, find

    path = resolve(path)
    many = path.is_dir() and not (path / "manifest.json").exists() and find(path)
    decided = _decided(path)
    file, sentence = decided or (folder.write(path) if many else run.write(RunDir.open(path)))
    return {"run": str(path), "report": str(file), "sentence": sentence}


def _decided(path: Path) -> tuple[Path, str] | None:
    """The page of a race or search that is completed; None for anything else."""
    from tunery.report import pages
    from tunery.rundir import read_json

    for name, module in DECISIONS.items():
        record = read_json(path / name) if (path / name).is_file() else {}
        if record.get("status") == "completed" and find_spec(module):
            page = import_module(module).page(path, record)
            return pages.write(path, page), page.lead
    return None
