"""tunery serve"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from tunery.cli._app import verb
from tunery.errors import ConfigError

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)


def show(result: dict[str, Any]) -> None:
    cut = f", {result['cut_off']} cut off" if result["cut_off"] else ""
    click.echo(f"{result['requests']} requests in {result['seconds']:.0f} s{cut}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]RUN...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="address to listen on; others than this machine's need a token",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free")
@click.option("--token-file", type=Path, help="file with the token that requests must have (Authorization: Bearer)")
@click.option("--allow-host", "allow_hosts", multiple=True, help="one more name for the Host header, as behind a proxy")
@click.option(
    "--runs-folder",
    type=Path,
    default=Path("runs"),
    show_default=True,
    help="where aliases are, and runs that may be loaded while serving (with a token)",
)
@click.option(
    "--max-batch", type=click.IntRange(1), default=32, show_default=True, help="answers that are written together"
)
@click.option(
    "--max-queue", type=click.IntRange(1), default=256, show_default=True, help="requests that wait; more get 429"
)
@click.option("--max-tokens", type=click.IntRange(1), default=2048, show_default=True, help="longest answer")
@click.option("--max-body", type=click.IntRange(1), default=1 << 20, show_default=True, help="bytes of a request")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="seconds of a request, the time in the queue included",
)
@click.option(
    "--read-timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="seconds until a request has arrived, and until a client that does not read its answer is given up",
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="seconds that answers have to end after SIGTERM or Ctrl-C",
)
@verb(show)
def command(runs: tuple[str, ...], **given: Any) -> dict[str, Any]:
    """Serve finished runs, by the names of their directories (or NAME=RUN, or an alias), with OpenAI's API.

    Says where when it is ready; serves until SIGTERM or Ctrl-C, then lets answers end. With --json the object comes at
    the end.
    """
    _needs_extra()
    from tunery.serve import server
    from tunery.serve.state import Limits

    folder = given["runs_folder"]
    named, aliased = _named(runs, folder)
    token = server.read_token(given["token_file"]) if given["token_file"] else None
    limits = Limits(
        body=given["max_body"],
        timeout=given["timeout"],
        max_tokens=given["max_tokens"],
        read=given["read_timeout"],
        write=given["read_timeout"],
        requests=given["max_batch"] + given["max_queue"],
    )
    options = server.Options(
        named, aliased, given["host"], given["port"], token, given["allow_hosts"], folder,
        given["max_batch"], given["max_queue"], given["drain"], limits,
    )  # fmt: skip
    return server.run(options, lambda where: click.echo(f"serving {', '.join(sorted(named))} at {where}"))


def _needs_extra() -> None:
    """Raises ConfigError that names the extra."""
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {', '.join(missing)}", "pip install 'tunery[serve]'", "tunery serve")


def _named(runs: tuple[str, ...], folder: Path) -> tuple[dict[str, Path], frozenset[str]]:
    """→ run directory of each name, and those names that are aliases. Raises ConfigError: a name twice."""
    from tunery.run import aliases

    found: dict[str, Path] = {}
    aliased = set()
    for text in runs:
        named = None if Path(text).exists() else _NAMED.fullmatch(text)
        given = named[2] if named else text
        path = aliases.resolve(given, folder)
        is_alias = path != Path(given)
        name = named[1] if named else given if is_alias else path.resolve().name
        if name in found:
            raise ConfigError(f"two runs would be served as {name!r}", "name them: NAME=RUN", text)
        found[name] = path
        if is_alias and not named:
            aliased.add(name)
    return found, frozenset(aliased)
