"""What the steps of ``data.clean`` and ``data.augment`` must offer."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from pydantic import Field

from tunery.protocols.plugin import Plugin, Strict


class Cleaner(Plugin):
    """A step of ``data.clean``: changes texts, always in the same way, or tells which rows are left out."""

    class Config(Strict):
        name: str = ""

    changes: ClassVar[bool] = True
    """False for a step that only leaves rows out."""
    answers: ClassVar[bool] = False
    """Whether it leaves the meaning and the wording alone, so that answers may be cleaned like questions."""
    note: ClassVar[str] = ""
    """What to tell whoever uses it."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError: a package or a file that it needs is missing."""
        self.config = config

    def clean(self, text: str) -> str:
        return text

    def drops(self, text: str) -> str | None:
        """Why a row with this input is left out, or None. Rows to predict never are."""
        return None


class Augmenter(Plugin):
    """A step of ``data.augment``: makes changed copies of training rows that keep their label or answer."""

    class Config(Strict):
        name: str = ""
        copies: int = Field(1, ge=1, le=100, description="copies of each training row")

    files: tuple[str, ...] = ()
    """Files that it reads."""

    def __init__(self, config: Any) -> None:
        """Raises ConfigError or DataError: a file or a corpus that it needs is missing or wrong."""
        self.config = config

    def augment(self, text: str, pick: random.Random) -> str | None:
        """A changed text, by chance that comes from ``pick`` alone; None where there is nothing to change."""
        raise NotImplementedError
