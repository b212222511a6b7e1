"""Finds the verbs, prints results and errors, sets the exit code."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import pkgutil
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from tunery import cli as package
from tunery.cli._huge_pages import restart
from tunery.errors import EXIT_INTERRUPTED, ConfigError, ResourceError, TuneryError, near

ORDER = (
    "init", "check", "show", "plan", "train", "resume", "eval", "predict", "batch", "chat", "race", "search", "prompts",
    "compare", "curve", "export", "report", "promote", "serve", "runs", "models",
)  # fmt: skip
"""In the order a project uses them; the listings of plug-ins come last."""


HELP = """Fine-tune any language model on your own data, with every method, and know that it worked.

\b
tunery init reviews.csv            look at the file, write tunery.yaml
tunery check                       schema, lengths, duplicates, leaks; trains nothing
tunery train method=lora           train; any key of the configuration as section.key=value
tunery eval RUN --data new.jsonl   score the result on new rows
"""
"""``\\b`` keeps the lines that follow as they are."""


class Verbs(click.Group):
    """Commands are the modules of this folder that define ``command``; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
        return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"tunery.cli.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            raise ConfigError(f"no such command {args[0]!r}", near(args[0], self.list_commands(ctx)), "tunery")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunery")
def tunery() -> None:
    """The command line."""


def verb(show: Callable[[Any], None]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a function a verb: it gets ``--json``; what it returns is printed as JSON or by ``show``.

    With ``--json`` nothing but that one object goes to stdout.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @click.option("--json", "as_json", is_flag=True, help="print one JSON object on stdout, all else on stderr")
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, **kwargs: Any) -> None:
            with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
                result = function(*args, **kwargs)
            code = result.pop("exit_code", 0) if isinstance(result, dict) else 0
            if as_json and _speaks():
                from tunery.rundir import dumps

                click.echo(_whole(dumps(result)))
            elif _speaks():
                show(result)
            if code:
                raise SystemExit(code)

        return run

    return decorate


def _speaks() -> bool:
    """Of several processes (torchrun) the first."""
    from tunery.run import processes  # loads pydantic, which --help does without

    return not processes.several() or processes.first()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Exit codes: see ``tunery.errors``."""
    if argv is None:
        restart()
    args = list(sys.argv[1:] if argv is None else argv)
    _log_to_stderr()
    try:
        tunery.main(args, prog_name="tunery", standalone_mode=False)
        code = 0
    except TuneryError as error:
        code = _report(error, args)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = ConfigError.code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path} --help" if context else "tunery --help"
        code = _report(ConfigError(error.format_message(), hint), args)
    except (KeyboardInterrupt, click.Abort):
        print("\ninterrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except MemoryError:
        code = _report(ResourceError("out of memory", "lower train.batch_size or data.max_length"), args)
    except OSError as error:
        code = _report(ResourceError(error.strerror or str(error), "", str(error.filename or "")), args)
    except Exception as error:  # a defect of ours: a line for the user, the traceback in a file for the report
        code = _report_defect(error, args)
    raise SystemExit(code)


def _report(error: TuneryError, args: Sequence[str]) -> int:
    print(_whole(f"tunery: {error}"), file=sys.stderr)
    if "--json" in args:
        print(_whole(json.dumps({"error": error.as_dict()}, ensure_ascii=False)))
    return error.code


def _whole(text: str) -> str:
    """With bytes that are not UTF-8, which arguments bring along as lone surrogates, as ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _report_defect(error: Exception, args: Sequence[str]) -> int:
    named: dict[str, Any] = {"prefix": "tunery-", "suffix": ".log", "delete": False}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace", **named) as stream:
        told = f"tunery {' '.join(args)}\n\n{''.join(traceback.format_exception(error))}"
        stream.write(re.sub(r"(://[^:/@\s]*):[^@\s]+@", r"\1:***@", told))  # a password in an address is no one's
    problem = f"a defect in tunery: {type(error).__name__}: {error}"
    unexpected = TuneryError(problem[:300], "please report it with this file", stream.name)
    unexpected.code = 1
    return _report(unexpected, args)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("tunery")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
