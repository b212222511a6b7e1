"""Errors that a user can act on, and the exit codes that scripts rely on.

Every error names a problem, where it is (``file:line``, a config key, a path) and what to do about it.
The command line prints it as one line; nothing in tunery shows a traceback for a mistake of the user's.
"""

from __future__ import annotations

import difflib

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class TuneryError(Exception):
    """A problem the user can solve.

    Args:
        problem: what is wrong, one sentence.
        hint: what to type or change next.
        where: ``file:line``, config key or path; empty if the problem has no place.
    """

    code = 2

    def __init__(self, problem: str, hint: str = "", where: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" → {self.hint}" if self.hint else ""
        return " ".join(f"{place}{self.problem}{advice}".split())

    def as_dict(self) -> dict[str, object]:
        return {"problem": self.problem, "where": self.where, "hint": self.hint, "code": self.code}


class ConfigError(TuneryError):
    """A wrong command line or configuration."""

    code = 2


class DataError(TuneryError):
    """Data that cannot be read or used."""

    code = 3


class GateError(TuneryError):
    """A check that was asked for did not pass."""

    code = 4


class ResourceError(TuneryError):
    """Not enough memory or disk, or a place that cannot be written."""

    code = 5


class ModelError(TuneryError):
    """A model, adapter or run directory that cannot be loaded or does not fit."""

    code = 6


class Interrupted(TuneryError):
    """Stopped by Ctrl-C or SIGTERM after a checkpoint was written."""

    code = EXIT_INTERRUPTED


class Paused(Interrupted):
    """Stopped at an evaluation by the one who watches the training, after a checkpoint was written."""


def near(name: str, known: list[str]) -> str:
    """A hint that names the nearest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
