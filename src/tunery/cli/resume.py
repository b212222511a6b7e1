"""tunery resume"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli import curve as curve_verb
from tunery.cli import prompts as prompts_verb
from tunery.cli import race as race_verb
from tunery.cli import search as search_verb
from tunery.cli._app import verb
from tunery.cli.train import finished, show


def _show(result: dict[str, Any]) -> None:
    of_kind = {
        "ladder": prompts_verb.show,
        "last_doubling": curve_verb.show,
        "search": search_verb.show,
        "race": race_verb.show,
    }
    next((shown for key, shown in of_kind.items() if key in result), show)(result)


@click.command()
@click.argument("run")
@verb(_show)
def command(run: str) -> dict[str, Any]:
    """Go on with an interrupted RUN, cross-validation, race, curve, search or search of prompts, where it was."""
    from tunery.decide import curve, prompts, race, search
    from tunery.run import folds
    from tunery.run.run import Run
    from tunery.run.train import resume

    if folds.is_folder(run):
        return folds.resume(run).summary()
    if prompts.is_folder(run):
        return prompts.summary(prompts.resume(run))
    if curve.is_folder(run):
        return curve.resume(run)
    if race.is_folder(run):
        return race_verb.summary(race.resume(run))
    if search.is_folder(run):
        return search.resume(run)
    return finished(Run(resume(run).path).summary())
