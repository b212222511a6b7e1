"""tunery resume"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli.train import show


@click.command()
@click.argument("run")
@verb(show)
def command(run: str) -> dict[str, Any]:
    """Go on with an interrupted RUN (or cross-validation), exactly where its last checkpoint was written."""
    from tunery.run import folds
    from tunery.run.run import Run
    from tunery.run.train import resume

    if folds.is_folder(run):
        return folds.resume(run).summary()
    return Run(resume(run).path).summary()
