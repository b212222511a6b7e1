"""tunery resume"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli import prompts as prompts_verb
from tunery.cli._app import verb
from tunery.cli.train import show


def _show(result: dict[str, Any]) -> None:
    (prompts_verb.show if "ladder" in result else show)(result)


@click.command()
@click.argument("run")
@verb(_show)
def command(run: str) -> dict[str, Any]:
    """Go on with an interrupted RUN, cross-validation or search for prompts, exactly where it was last written."""
    from tunery.decide import prompts
    from tunery.run import folds
    from tunery.run.run import Run
    from tunery.run.train import resume

    if folds.is_folder(run):
        return folds.resume(run).summary()
    if prompts.is_folder(run):
        return prompts.summary(prompts.resume(run))
    return Run(resume(run).path).summary()
