"""tunery promote"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import table


def show(result: list[dict[str, Any]] | dict[str, Any]) -> None:
    if isinstance(result, dict):
        if not result["changed"]:
            click.echo(f"{result['name']} is {result['run']} already, since {result['since']}")
            return
        click.echo(f"{result['name']} is now {result['run']}")
        if result["previous"]:
            click.echo(f"before: {result['previous'][-1]} (tunery promote {result['name']} --rollback)")
        return
    if not result:
        click.echo("no aliases yet: tunery promote RUN --as NAME")
        return
    rows = [{**r, "run": r["run"] + " (gone)" * r["gone"], "before": (r["previous"] or ["–"])[-1]} for r in result]
    table(rows, ["name", "run", "since", "before"])


@click.command()
@click.argument("run", required=False)
@click.option("--as", "alias", metavar="NAME", help="the name under which the run is served")
@click.option("--rollback", is_flag=True, help="let the name stand for the run before again")
@click.option("--folder", default="runs", show_default=True, help="folder of the runs; aliases.json is in it")
@verb(show)
def command(run: str | None, alias: str | None, rollback: bool, folder: str) -> list[dict[str, Any]] | dict[str, Any]:
    """Give a finished RUN a name under which it is served; without arguments, list the names.

    Every verb that takes a RUN takes such a name too. --rollback takes the last promotion of a
    name back: tunery promote NAME --rollback.
    """
    if rollback and run:
        if alias:
            raise click.UsageError("--rollback goes back to the run before: name no RUN")
        run, alias = None, run  # promote NAME --rollback
    if alias is None and (run or rollback):
        raise click.UsageError("which name? add --as NAME")
    if alias and not (run or rollback):
        raise click.UsageError("name a RUN, or add --rollback")
    from tunery.run import aliases

    place = Path(folder)
    if alias is None:
        return aliases.listed(place)
    if rollback:
        return aliases.rollback(alias, place)
    assert run is not None
    return aliases.promote(run, alias, place)
