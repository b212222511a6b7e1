"""What a page is made of. The blocks are plain data; ``html`` and ``markdown`` write them down.

Texts are plain texts: nothing in them is markup, whatever a data file holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph. ``kind``: ``note`` stands out a little, ``warning`` more."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True, slots=True)
class Link:
    """A cell that leads to another file below the page's own folder: ``Link("lora", "lora-1/report.html")``."""

    text: str
    target: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under their column names; missing values and None are a dash.

    Values may be texts, numbers, truth values and ``Link``. ``strong``: numbers of the rows that stand out.
    """

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    caption: str = ""
    strong: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """Counts by true (row) and given (column) label, each row coloured by its shares."""

    labels: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Picture:
    """An inline ``<svg>`` by ``pictures``; ``caption`` says what is to be seen."""

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class Code:
    """Text as it stands, in letters of one width."""

    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A row with what was expected and what was given."""

    where: str
    asked: str
    expected: str
    given: str
    right: bool | None
    """None: there is no saying."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows one below the other."""

    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class Fold:
    """Closed until it is clicked on."""

    title: str
    blocks: Sequence[Block]


Block = Text | Table | Matrix | Picture | Code | Samples | Fold


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """``lead`` is the sentence that says what was done and what came of it; ``warnings`` stand right below."""

    title: str
    lead: str
    sections: Sequence[Section] = ()
    warnings: Sequence[str] = field(default=())
    language: str = "en"
    """Of the page's own words, as in HTML's ``lang``."""


def section(title: str, *blocks: Block | None) -> Section:
    """A section of the blocks that there are.

    >>> section("Curves", None, Text("no picture")).blocks
    [Text(text='no picture', kind='plain')]
    """
    return Section(title, [block for block in blocks if block is not None])


def facts(values: Mapping[str, Any], caption: str = "") -> Table:
    """Names and values as a table of two columns.

    >>> facts({"seed": 42}).rows
    [{'what': 'seed', 'value': 42}]
    """
    return Table(["what", "value"], [{"what": name, "value": value} for name, value in values.items()], caption)
