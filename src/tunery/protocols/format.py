"""What a format must offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from tunery.protocols.plugin import Plugin
from tunery.protocols.records import Example, Row


class Format(Plugin):
    """How the columns of a row become an example."""

    columns: ClassVar[tuple[str, ...]]
    """Columns it needs."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Columns it uses if present."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Those of ``columns`` that hold the answer: rows to predict do without them."""
    task: ClassVar[str]
    """The task that is natural for this format."""
    note: ClassVar[str] = ""
    """What is said to everyone whose rows are read in this format."""

    def matches(self, columns: Iterable[str]) -> float:
        """How well a table with these columns fits, 0 (not at all) to 1."""
        have = set(columns)
        if not set(self.columns) <= have:
            return 0.0
        known = len(have & {*self.columns, *self.optional})
        return 0.5 + 0.4 * known / len(have) + 0.01 * len(self.columns)

    def rows(self, row: Row) -> Iterable[Row]:
        """The rows that a record is: itself, or several if they are nested in it. Each has a place of its own. Raises
        DataError if the record is unusable.
        """
        return (row,)

    def example(self, row: Row, need_target: bool = True) -> Example:
        """Raises DataError naming ``row.where`` if the row is unusable."""
        raise NotImplementedError
