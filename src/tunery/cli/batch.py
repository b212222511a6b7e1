"""tunery batch"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from tunery.cli._app import verb
from tunery.cli._sampling import sampling_options


def show(result: dict[str, Any]) -> None:
    bad = f", {result['bad']} of them with an error" if result["bad"] else ""
    begun = f" (from row {result['began_at'] + 1} on in this process)" if result["began_at"] else ""
    click.echo(f"{result['rows']} rows in {result['output']}{bad}{begun}")


@click.command()
@click.argument("run")
@click.option("--input", "files", multiple=True, required=True, help="file of rows, in any format training reads")
@click.option("--output", required=True, help="JSONL file, one record a row; OUTPUT.state.json is written beside it")
@click.option("--restart", is_flag=True, help="begin anew and overwrite the output")
@click.option(
    "--on-bad-row",
    type=click.Choice(["record", "error"]),
    default="record",
    show_default=True,
    help="a row that cannot be read or does not fit: a record with an error, or the end",
)
@sampling_options
@verb(show)
def command(
    run: str,
    files: tuple[str, ...],
    output: str,
    restart: bool,
    on_bad_row: Literal["record", "error"],
    sampling: dict[str, Any],
) -> dict[str, Any]:
    """Predict every row of a large file; stopped at any moment and started again, it goes on.

    Rows come out in order, each exactly once, with its number and place. Memory does not grow with the file.
    """
    from tunery.generate.engine import Sampling
    from tunery.run.run import load

    tuned = load(run)
    chosen = Sampling(**{"max_new_tokens": tuned.config.eval.max_new_tokens, **sampling})
    return tuned.batch(list(files), Path(output), chosen, restart, on_bad_row)
