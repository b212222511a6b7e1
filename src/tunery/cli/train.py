"""tunery train"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, scores, size


def show(result: dict[str, Any]) -> None:
    click.echo()
    scores({"base": result["base"], "tuned": result["metrics"]})
    if result.get("test_metrics"):
        click.echo("\non the test rows:")
        scores({"base": result["base_test"], "tuned": result["test_metrics"]})
    click.echo(
        f"\n{result['steps']} steps in {result['seconds']:.0f} s, {result['tokens_per_second']:.0f} tokens/s, "
        f"{result['trainable_parameters']:,} parameters trained, {size(result['peak_memory_bytes'])} of memory"
    )
    click.echo(f"run: {result['run']}")


@click.command()
@config_arguments
@verb(show)
def command(arguments: tuple[str, ...]) -> dict[str, Any]:
    """Train a model; end with its scores beside the base model's.

    Reads CONFIG (or ./tunery.yaml if there is one); any key can be given as SECTION.KEY=VALUE, and
    model=, task=, method= mean the name. Writes a new directory under runs/ and never overwrites one.
    """
    config = read_config(arguments)
    from tunery.run.run import Run
    from tunery.run.train import train

    return Run(train(config).path).summary()
