"""tunery show"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config

VISIBLE = {"\n": "⏎\n", "\t": "⇥", "\r": "␍", "\u200b": "∅", "\ufeff": "∅"}
OPEN, CLOSE = "⟦", "⟧"
WIDTH = 20  # of the column before texts


def show(result: dict[str, Any]) -> None:
    if "changed" in result:
        _before_after(result)
        return
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    generates = any(token["supervised"] is not None for row in result["rows"] for token in row["tokens"])
    if generates:
        legend = _style("supervised", True, False, colour)
        click.echo(f"{legend}: the model learns to produce it; the rest is only read", color=colour)
    for row in result["rows"]:
        click.echo(f"\n{_heading(row, generates)}")
        click.echo(_text(row["tokens"], colour), color=colour)
    for note in result["notes"]:
        click.echo(note, err=True)


def _heading(row: dict[str, Any], generates: bool) -> str:
    parts = [f"{len(row['tokens'])} tokens"]
    if generates:
        parts.append(f"{row['supervised']} supervised")
    if row["truncated"]:
        parts.append("truncated")
    if row["target"] is not None:
        target = row["target"] if isinstance(row["target"], str) else ", ".join(map(str, row["target"])) or "none"
        parts.append(f"target: {target}")
    return f"{row['where']}  {', '.join(parts)}"


def _text(tokens: list[dict[str, Any]], colour: bool) -> str:
    """Tokens of the same kind in one run."""
    runs: list[tuple[bool, bool, str]] = []
    for token in tokens:
        kind = (bool(token["supervised"]), colour and token["special"])
        text = "".join(VISIBLE.get(char, char) for char in token["text"])
        if runs and runs[-1][:2] == kind:
            runs[-1] = (*kind, runs[-1][2] + text)
        else:
            runs.append((*kind, text))
    return "".join(_style(text, supervised, special, colour) for supervised, special, text in runs).rstrip("\n")


def _style(text: str, supervised: bool, special: bool, colour: bool) -> str:
    """Line by line: a background that runs over a line's end would colour the rest of the line."""
    if not colour:
        return f"{OPEN}{text}{CLOSE}" if supervised and text else text
    look: dict[str, Any] = {"fg": "magenta"} if special else {"dim": True}
    if supervised:
        look = {"bg": "green", "bold": True, "fg": "white" if special else "black"}
    return "\n".join(click.style(line, **look) if line else "" for line in text.split("\n"))


def _before_after(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        click.echo(f"\n{row['where']}" + f"  dropped: {row['dropped']}" * bool(row["dropped"]))
        _print_texts("before", row["before"])
        if row["after"] not in (None, row["before"]):
            _print_texts("after", row["after"], row["before"])
        for copy in row["copies"]:
            _print_texts(copy["step"], copy["texts"], row["after"])
    dropped = "".join(f", {count:,} dropped by {reason}" for reason, count in result["dropped"].items())
    click.echo(f"\n{result['split']}: {result['changed']:,} rows changed, {result['augmented']:,} copies{dropped}")
    for note in result["notes"]:
        click.echo(note, err=True)


def _print_texts(title: str, texts: list[list[str]], other: list[list[str]] | None = None) -> None:
    """Those that differ from ``other``."""
    for place, (name, text) in enumerate(texts):
        if other is None or texts[place] != other[place]:
            visible = "".join(VISIBLE.get(char, char) for char in text).replace("\n", f"\n{'':{WIDTH}}")
            label = title if len(texts) == 1 else f"{title} {name}"
            click.echo(f"  {label:{WIDTH - 2}}{visible}")


@click.command()
@config_arguments
@click.option("--rows", type=click.IntRange(1), default=3, show_default=True, help="how many")
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="of which rows",
)
@click.option("--before-after", is_flag=True, help="rows that data.clean and data.augment change, before and after")
@verb(show)
def command(arguments: tuple[str, ...], rows: int, split: str, before_after: bool) -> dict[str, Any]:
    """Print the tokens of encoded rows, coloured by what the model learns to produce.

    ⏎ is a line break inside the text. Without colours, supervised tokens stand in ⟦ ⟧.
    """
    config = read_config(arguments)
    if before_after:
        from tunery.run.before_after import before_after as changes_of

        return changes_of(config, rows, split)
    from tunery.run.show import show as tokens_of

    return tokens_of(config, rows, split)
