"""tunery chat"""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._sampling import sampling_options
from tunery.errors import DataError


@click.command()
@click.argument("run")
@click.option("--system", help="system message")
@sampling_options
@verb(lambda result: None)
def command(run: str, system: str | None, sampling: dict[str, Any]) -> dict[str, Any]:
    """Talk to a finished RUN. /new starts over, /exit or the end of the input leaves.

    Reads one message a line; with --json the whole conversation is printed at the end.
    """
    from tunery.generate.engine import Sampling
    from tunery.protocols import Message
    from tunery.run.run import load

    tuned = load(run)
    chosen = Sampling(**{"max_new_tokens": 256, **sampling})
    first = [Message("system", system)] if system else []
    messages = list(first)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is said, and the next one read
    person = sys.stdin.isatty()
    if person:
        click.echo(f"{tuned.path.name}: /new starts over, /exit leaves", err=True)
    while True:
        try:
            line = input("> " if person else "").strip()
        except EOFError:
            break
        if line == "/exit":
            break
        if line == "/new":
            messages = list(first)
        elif line:
            asked = [*messages, Message("user", line)]
            try:
                answer = tuned.generate(asked, chosen, on_text=lambda piece: print(piece, end="", flush=True))
            except DataError as error:  # the conversation has grown too long, or this line cannot be read
                click.echo(f"tunery: {error.problem}; /new starts over", err=True)
                continue
            print()
            messages = [*asked, Message("assistant", answer)]
    return {"run": str(tuned.path), "messages": [{"role": m.role, "content": m.content} for m in messages]}
