"""tunery search"""

from __future__ import annotations

import re
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_values, scores, table

FIXED = ("space", "sampler", "pruner", "seed", "study", "warm_start", "stale_after")
"""Options that a search keeps when it is resumed."""
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[float]):
    """``90``, ``90s``, ``15m``, ``2h`` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is no duration: write 90s, 15m or 2h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


def show(result: dict[str, Any]) -> None:
    from tunery.decide.search_report import ranked

    best, trials, monitor = result["best"], result["trials"], result["monitor"]
    keys = list(result["space"])
    click.echo()
    rows = [
        {
            "trial": trial["trial"],
            "status": trial["status"],
            monitor: trial["value"],
            "seconds": None if trial["seconds"] is None else f"{trial['seconds']:.0f}",
            **{key: setting(trial["settings"].get(key, "–")) for key in keys},
            "": trial["problem"] or trial["source"] or "",
        }
        for trial in ranked(trials, result["higher_is_better"])
    ]
    table(rows, ["trial", "status", monitor, "seconds", *keys, ""])
    if result["importance"]:
        shown = ", ".join(f"{key} {share:.0%}" for key, share in result["importance"].items())
        click.echo(f"\nwhat made the difference: {shown}")
    _conclusion(result, best)


def _conclusion(result: dict[str, Any], best: dict[str, Any]) -> None:
    monitor, first = result["monitor"], next((t for t in result["trials"] if t["source"] == "as configured"), None)
    click.echo(f"\nbest: trial {best['trial']}, {monitor} {best['value']:.4f} on the validation rows")
    if first is not None and first["status"] == "completed":
        if first["trial"] == best["trial"]:
            click.echo("no trial was better than the configuration as it was")
        else:
            click.echo(f"as configured: {first['value']:.4f}")
    click.echo("the best of many trials looks a little better there than it is: only other rows tell how good it is")
    test = result["test"]
    if test and test.get("metrics"):
        click.echo("\non the test rows, which no trial has seen:")
        scores({"base": test["base"], **test["baselines"], "best": test["metrics"]})
    elif test:
        click.echo(f"\nnot scored on the test rows: {test['problem']}")
    where = result["run"] or f"on {best['place']}, trial {best['trial']}"
    click.echo(f"\nrun: {where}\nreport: {result['report'] or '–'}\ntunery train {result['config']} trains it again")


def setting(value: Any) -> str:
    """A value short enough for a table."""
    from tunery.decide.search_report import words_of

    text = " ".join(words_of(value).split())
    return text if len(text) <= 32 else f"{text[:31]}…"


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@click.command()
@config_arguments
@click.option(
    "--space",
    multiple=True,
    metavar="KEY=RANGE",
    help="what to try, 'train.lr={log: [1e-5, 1e-3]}' or "
    "'method.r=[4, 8]'; can be given several times; default: sensible ranges for the method",
)
@click.option("--trials", type=click.IntRange(1), help="in all; default 20, and every combination for a grid")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="how the next settings are chosen",
)
@click.option(
    "--pruner",
    type=click.Choice(["median", "halving", "none"]),
    default="median",
    show_default=True,
    help="which trials end at an evaluation: those below the median, or all but the best third",
)
@click.option("--workers", type=click.IntRange(1), help="trials at the same time; they share the CPUs; default 1")
@click.option("--budget", type=Duration(), help="time after which no new trial begins: 90s, 15m, 2h")
@click.option("--seed", type=int, default=0, show_default=True, help="of the sampler")
@click.option("--storage", metavar="URL", help="postgresql://USER@HOST/DATABASE, shared by several machines")
@click.option("--study", metavar="NAME", help="name of the shared study; default: by model, data and space")
@click.option(
    "--stale-after",
    type=Duration(),
    default="180s",
    show_default=True,
    help="silence after which another machine's worker counts as dead",
)
@click.option(
    "--warm-start",
    multiple=True,
    metavar="RUN",
    help="begin with the best settings of this run, search or folder of such; can be given several times",
)
@click.option("--resume", "folder", metavar="FOLDER", help="go on with this search")
@verb(show)
def command(
    arguments: tuple[str, ...],
    space: tuple[str, ...],
    trials: int | None,
    sampler: str,
    pruner: str,
    workers: int | None,
    budget: float | None,
    seed: int,
    storage: str | None,
    study: str | None,
    stale_after: float,
    warm_start: tuple[str, ...],
    folder: str | None,
) -> dict[str, Any]:
    """Find the settings that do best on the validation rows.

    Takes CONFIG and SECTION.KEY=VALUE as train does; what is searched comes from --space, else from the section
    search: of CONFIG, else from a table of sensible ranges. Trials are runs in a new directory under runs/;
    best.yaml in there is the configuration to train.
    """
    from tunery import config as configuration
    from tunery.decide import search as searching
    from tunery.decide.space import parse_options

    options = searching.Options(trials, sampler, pruner, workers, seed, budget, storage, study, warm_start, stale_after)
    if folder is not None:
        if arguments or any(_was_given(name) for name in FIXED):
            hint = "with it go --trials, --workers, --budget and --storage"
            raise click.UsageError(f"--resume goes on with a search as it was: {hint}")
        return searching.resume(folder, options)
    values = read_values(arguments)
    given = parse_options(space) or values.get(configuration.SEARCH) or {}
    return searching.search(configuration.build(values), given, options)
