"""tunery train"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, forgetting, overfitting, read_config, retention, scores, size
from tunery.errors import GateError


def show(result: dict[str, Any]) -> None:
    click.echo()
    if "folds" in result:
        _folds(result)
        return
    scores({"base": result["base"], **result["baselines"], "tuned": result["metrics"]})
    if result.get("test_metrics"):
        click.echo("\non the test rows:")
        scores({"base": result["base_test"], **result["test_baselines"], "tuned": result["test_metrics"]})
    retention(result.get("retention"))
    told = (forgetting(result.get("forgetting")), overfitting(result.get("overfitting")))
    for line in (*result["verdicts"], *filter(None, told)):
        click.echo(f"\n{line}")
    click.echo(
        f"\n{result['steps']} steps in {result['seconds']:.0f} s, {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['trainable_parameters']:,} parameters trained, {size(result['peak_memory_bytes'])} of memory"
    )
    click.echo(f"run: {result['run']}")
    if result["report"]:
        click.echo(f"report: {result['report']}")


def _folds(result: dict[str, Any]) -> None:
    click.echo(f"means of {len(result['folds'])} folds, each tested on rows it has not seen")
    low, high = ({name: ends[i] for name, ends in result["intervals"].items()} for i in (0, 1))
    scores({"base": result["base"], "tuned": result["metrics"], "from": low, "to": high})
    click.echo(f"\n95 % intervals of the means; {result['seconds']:.0f} s of training\nrun: {result['run']}")


@click.command()
@config_arguments
@click.option(
    "--max-forgetting",
    metavar="SHARE",
    help="scale what was learnt so that the loss on general text rises by at most so much, for example 2%",
)
@click.option(
    "--continue",
    "parent",
    metavar="RUN",
    help="go on from a finished run with new data; its configuration is the start",
)
@verb(show)
def command(arguments: tuple[str, ...], max_forgetting: str | None, parent: str | None) -> dict[str, Any]:
    """Train a model; end with its scores beside the base model's.

    Reads CONFIG (or ./tunery.yaml if there is one); any key can be given as SECTION.KEY=VALUE, and
    model=, task=, method= mean the name. Writes a new directory under runs/ and never overwrites one.
    """
    bound = [] if max_forgetting is None else [f"train.max_forgetting={max_forgetting}"]
    config = _config([*arguments, *bound], parent)
    from tunery.run import folds
    from tunery.run.run import Run
    from tunery.run.train import train

    if config.data.folds and not config.data.fold:
        return folds.cross_validate(config).summary()
    return finished(Run(train(config).path).summary())


def _config(arguments: list[str], parent: str | None) -> Any:
    if parent is None:
        return read_config(arguments)
    if files := [a for a in arguments if "=" not in a]:
        raise click.UsageError(f"--continue begins with the configuration of {parent}: leave {files[0]} out")
    from tunery.run.continuing import configured

    return configured(parent, {}, arguments)


def finished(summary: dict[str, Any]) -> dict[str, Any]:
    """Exit code 4 where a bound on forgetting was set and nothing that was learnt can keep it."""
    found = summary.get("forgetting") or {}
    if found.get("bound") is not None and found["scale"] is None:
        summary["exit_code"] = GateError.code
    return summary
