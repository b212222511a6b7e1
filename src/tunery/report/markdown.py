"""A page as Markdown, to read in a terminal or a diff. Pictures are named; they stand in the HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tunery.report import words
from tunery.report.page import Block, Code, Fold, Link, Matrix, Page, Picture, Sample, Samples, Table, Text

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_STARTS = re.compile(r"^(\d*)([-+=.)])(?=\s)")
"""What would begin a list or a heading."""


def render(page: Page) -> str:
    parts = [f"# {escape(page.title)}", escape(page.lead), *(f"> **{escape(line)}**" for line in page.warnings)]
    for section in (section for section in page.sections if section.blocks):
        parts += [f"## {escape(section.title)}", *blocks(section.blocks)]
    return "\n\n".join(parts) + "\n"


def escape(text: Any) -> str:
    """A text as one line in which nothing is markup, HTML neither."""
    line = " ".join(words.plain(text).split())
    return _STARTS.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", line).replace("&", "&amp;"))


def blocks(found: Sequence[Block]) -> list[str]:
    return [text for block in found for text in _block(block)]


def _block(block: Block) -> list[str]:
    match block:
        case Text():
            return [escape(block.text) if block.kind == "plain" else f"> {escape(block.text)}"]
        case Table():
            caption = [escape(block.caption)] if block.caption else []
            return [*caption, table(block)]
        case Matrix():
            columns = ["true ╲ given", *block.labels]
            lines = [[label, *counts] for label, counts in zip(block.labels, block.counts, strict=True)]
            return [_lines(columns, lines)]
        case Picture():
            return [f"*Picture in report.html: {escape(block.caption)}*"]
        case Code():
            return [fenced(block.text)]
        case Samples():
            return [_sample(sample) for sample in block.samples]
        case Fold():
            return [f"### {escape(block.title)}", *blocks(block.blocks)]


def table(block: Table) -> str:
    return _lines(block.columns, [[row.get(column) for column in block.columns] for row in block.rows])


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [[escape(name) for name in columns], ["---"] * len(columns)]
    lines += [[escape(value.text if isinstance(value, Link) else words.cell(value)) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str) -> str:
    """A block of code whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{words.plain(text).rstrip()}\n{fence}"


def _sample(sample: Sample) -> str:
    mark = {True: "right", False: "**wrong**", None: "row"}[sample.right]
    parts = [("asked", sample.asked), ("expected", sample.expected), ("given", sample.given)]
    note = f", {escape(sample.note)}" if sample.note else ""
    head = f"- {mark}{note} ({escape(sample.where)})"
    return "\n".join([head, *(f"  - {name}: {escape(words.cut(text))}" for name, text in parts if text)])
