"""tunery init"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb

MOST_LABELS = 8


def show(result: dict[str, Any]) -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in result["splits"].items())
    columns = ", ".join(a if a == b else f"{b} ({a})" for a, b in result["columns"].items())
    click.echo(f"{result['config']} written")
    click.echo(f"  rows      {rows}")
    click.echo(f"  format    {result['format']}: {columns}")
    click.echo(f"  task      {result['task']}")
    click.echo(f"  model     {result['values']['model']['name']}, method {result['values']['method']['name']}")
    if labels := result["labels"]:
        shown = ", ".join(f"{label} {count:,}" for label, count in list(labels.items())[:MOST_LABELS])
        click.echo(f"  labels    {shown}" + (f", … {len(labels)} in all" if len(labels) > MOST_LABELS else ""))
    names = {"latin": "Latin letters", "chinese": "Chinese", "other": "other"}
    shares = ", ".join(f"{names[name]} {share:.0%}" for name, share in result["languages"].items() if share >= 0.005)
    click.echo(f"  language  {shares}")
    for note in result["notes"]:
        click.echo(f"  {note}")
    click.echo("next: tunery check, then tunery train")


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="FILE... [SECTION.KEY=VALUE]...")
@click.option("--model", help="base model; default: minilm for labels, smollm2 to generate text")
@click.option("--method", help="tuning method; default: lora")
@click.option("--force", is_flag=True, help="replace a tunery.yaml that is there")
@verb(show)
def command(arguments: tuple[str, ...], model: str | None, method: str | None, force: bool) -> dict[str, Any]:
    """Look at data files and write tunery.yaml for them, with comments that say why.

    A FILE called train.* brings the validation.* (or dev.*) and test.* beside it. Keys that are given as
    SECTION.KEY=VALUE go into the file.
    """
    files = [a for a in arguments if "=" not in a or Path(a).exists()]
    if not files:
        raise click.UsageError("name a data file")
    from tunery.run.init import init

    return init(files, model, method, [a for a in arguments if a not in files], force)
