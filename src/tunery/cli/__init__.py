"""The command line. One file a verb; nothing heavy is imported before a verb runs."""

from __future__ import annotations

from tunery.cli._app import main

__all__ = ["main"]
