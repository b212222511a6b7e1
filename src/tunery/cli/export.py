"""tunery export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import scores


def show(result: dict[str, Any]) -> None:
    if "kinds" in result:
        from tunery.cli._text import table

        table(result["kinds"], ["name", "dtypes", "checked with", "summary"])
        return
    found = result["parity"]
    if found["consumer"] is None:
        click.echo(f"not checked: {result['bytes'] / 1e6:,.1f} MB in {result['path']}")
        return
    versions = " ".join(f"{name} {version}" for name, version in found["consumer"]["versions"].items())
    click.echo(f"{found['rows']} rows, {found['positions']} positions, checked with {versions}")
    agreement = "" if found["top1"] is None else f"top-1 agreement {found['top1']:.2%}, "
    bound = f"(at most {found['bounds']['kl']:.2g} in the mean)"
    click.echo(
        f"token ids equal {found['token_ids_equal']:.0%}, {agreement}"
        f"KL mean {found['kl_mean']:.2g}, largest {found['kl_max']:.2g} {bound}"
    )
    if found["same_answers"] is not None:
        click.echo(f"same greedy answers {found['same_answers']:.0%}")
    scores(found["metrics"])
    click.echo(f"{result['bytes'] / 1e6:,.1f} MB in {result['path']}")


@click.command()
@click.argument("run", required=False)
@click.option("--to", "kind", help="kind of export; without it and RUN: list them")
@click.option("--dtype", help="what the weights are stored in: f32, bf16, f16, or one of the kind's own")
@click.option("--output", type=click.Path(path_type=Path), help="folder to write; default: export/KIND in the run")
@click.option("--force", is_flag=True, help="replace an older export, once the new one has passed")
@click.option("--rows", type=click.IntRange(1), default=32, show_default=True, help="rows that it is judged by")
@click.option("--max-kl", type=float, help="largest mean KL divergence from the run; default: by dtype")
@click.option("--min-top1", type=float, help="smallest share of equal top-1 predictions; default: by dtype")
@click.option("--unverified", is_flag=True, help="publish it unchecked where the program that checks it is missing")
@verb(show)
def command(run: str | None, kind: str | None, **options: Any) -> dict[str, Any]:
    """Write a finished RUN in a form that other programs load.

    The program that will load it does so first, and must give the run's answers; else nothing is published (exit code
    4). Without arguments: the kinds there are.
    """
    from tunery.export import kinds

    if kind is None and run is None:
        return {"kinds": [_described(name) for name in kinds.names()]}
    if kind is None or run is None:
        raise click.UsageError(f"name a RUN and --to KIND ({', '.join(kinds.names())})")
    from tunery.export.publish import export

    return export(run, kind, **options)


def _described(name: str) -> dict[str, Any]:
    from tunery.export import kinds

    kind = kinds.get(name)
    program = kind.consumer.replace("_", "-")
    return {"name": name, "dtypes": " ".join(kind.dtypes), "checked with": program, "summary": kind.summary}
