"""tunery eval"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import forgetting, scores, table, width


def show(result: dict[str, Any]) -> None:
    click.echo(f"{result['rows']} rows of {result['data']}")
    scores({**result["baselines"], "tuned": result["metrics"]})
    for line in result["verdicts"]:
        click.echo(line)
    if line := forgetting(result.get("forgetting")):
        click.echo(line)
    if result["dropped"]:
        click.echo(f"rows left out: {', '.join(f'{count} {why}' for why, count in result['dropped'].items())}")
    confusion = result.get("confusion")
    if confusion and len(confusion["labels"]) <= 12:
        click.echo("\nrows: true label, columns: predicted label")
        labels = confusion["labels"]
        rows = [
            {"": label, **dict(zip(labels, counts, strict=True))}
            for label, counts in zip(labels, confusion["counts"], strict=True)
        ]
        table(rows, ["", *labels] if sum(map(width, labels)) < 150 else [""])


@click.command()
@click.argument("run")
@click.option("--data", multiple=True, help="file to score on; default: the run's own test, else validation files")
@click.option("--metric", "metrics", multiple=True, help="number to report; default: those of the task")
@click.option("--max-new-tokens", type=click.IntRange(1), help="longest generated answer")
@click.option("--name", help="folder under eval/ in the run; default: the file's name")
@verb(show)
def command(
    run: str, data: tuple[str, ...], metrics: tuple[str, ...], max_new_tokens: int | None, name: str | None
) -> dict[str, Any]:
    """Score a finished RUN; writes results and predictions into its eval/ folder."""
    from tunery.run.run import load

    return load(run).evaluate(list(data) or None, list(metrics) or None, max_new_tokens, name)
