"""``python -m tunery`` is ``tunery``."""

from __future__ import annotations

from tunery.cli import main

main()
