"""tunery train"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, scores, size


def show(result: dict[str, Any]) -> None:
    click.echo()
    if "folds" in result:
        _folds(result)
        return
    scores({"base": result["base"], **result["baselines"], "tuned": result["metrics"]})
    if result.get("test_metrics"):
        click.echo("\non the test rows:")
        scores({"base": result["base_test"], **result["test_baselines"], "tuned": result["test_metrics"]})
    for line in result["verdicts"]:
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
@verb(show)
def command(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Train a model; end with its scores beside the base model's.

    Reads CONFIG (or ./tunery.yaml if there is one); any key can be given as SECTION.KEY=VALUE, and
    model=, task=, method= mean the name. Writes a new directory under runs/ and never overwrites one.
    """
    config = read_config(arguments)
    from tunery.run import folds
    from tunery.run.run import Run
    from tunery.run.train import train

    if config.data.folds and not config.data.fold:
        return folds.cross_validate(config).summary()
    return Run(train(config).path).summary()
