"""A page as one HTML file: no script, nothing fetched, every text escaped.

The Content-Security-Policy makes a browser refuse what this module never writes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from tunery.report import words
from tunery.report.page import (
    Block,
    Code,
    Fold,
    Link,
    Matrix,
    Page,
    Picture,
    Sample,
    Samples,
    Table,
    Text,
)
from tunery.report.style import CSS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
WIDE = 8
"""Letters of a label from which those above a matrix are turned."""
UNBROKEN = 40
"""Letters of a word from which it may be broken anywhere: hashes, paths."""
_NUMBER = re.compile(r"[-+±]?[\d.,]+(e[-+]?\d+)?( ?%| [kMG]?B| s)?\Z|–\Z")


def render(page: Page) -> str:
    """The whole file."""
    title = escape(page.title)
    warnings = "".join(_text(Text(line, "warning")) for line in page.warnings)
    sections = [section for section in page.sections if section.blocks]
    body = "".join(
        f'<section id="s{i}"><h2>{escape(s.title)}</h2>\n{blocks(s.blocks)}</section>\n'
        for i, s in enumerate(sections, 1)
    )
    contents = "".join(f'<a href="#s{i}">{escape(s.title)}</a>\n' for i, s in enumerate(sections, 1))
    return (
        f'<!DOCTYPE html>\n<html lang="{escape(page.language)}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="lead">{escape(page.lead)}</p>\n{warnings}'
        f"<nav>\n{contents}</nav>\n{body}</main>\n</body>\n</html>\n"
    )


def escape(text: Any) -> str:
    """As text or as the value of an attribute."""
    return html.escape(words.plain(text), quote=True)


def blocks(found: Sequence[Block]) -> str:
    return "".join(_block(block) for block in found)


def _block(block: Block) -> str:
    match block:
        case Text():
            return _text(block)
        case Table():
            return _table(block)
        case Matrix():
            return _matrix(block)
        case Picture():
            return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>\n"
        case Code():
            return f"<pre>{escape(block.text)}</pre>\n"
        case Samples():
            return "".join(_sample(sample) for sample in block.samples)
        case Fold():
            return f"<details><summary>{escape(block.title)}</summary>\n{blocks(block.blocks)}</details>\n"


def _text(block: Text) -> str:
    chosen = "" if block.kind == "plain" else f' class="{block.kind}"'
    return f"<p{chosen}>{escape(block.text)}</p>\n"


def _foreign(text: str) -> str:
    """Attributes of text from the data: it may run from right to left and is drawn as its language does."""
    language = words.language(text)
    return ' dir="auto"' + (f' lang="{language}"' if language else "")


def _table(block: Table) -> str:
    head = "".join(f"<th{_aligned(block, column)}>{escape(column)}</th>" for column in block.columns)
    lines = []
    for number, row in enumerate(block.rows):
        cells = "".join(f"<td{_aligned(block, column)}>{_cell(row.get(column))}</td>" for column in block.columns)
        lines.append(f"<tr{' class=strong' if number in block.strong else ''}>{cells}</tr>\n")
    caption = f"<caption>{escape(block.caption)}</caption>" if block.caption else ""
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table>{caption}{body}</table></div>\n'


def _aligned(block: Table, column: str) -> str:
    """Columns of nothing but numbers stand right."""
    values = [row.get(column) for row in block.rows]
    numbers = values and all(not isinstance(v, Link) and _NUMBER.match(words.cell(v)) for v in values)
    return " class=number" if numbers else ""


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        text = escape(value.text)
        return f'<a href="{quote(words.plain(value.target))}">{text}</a>' if _inside(value.target) else text
    text = words.cell(value)
    long = " class=long" if max(map(len, text.split()), default=0) > UNBROKEN else ""
    return f"<span{long}{_foreign(text)}>{escape(text)}</span>"


def _inside(target: str) -> bool:
    """Whether it is a path below the page's folder: no scheme, no ``..``, no root."""
    return not (target.startswith("/") or ":" in target or "\\" in target or ".." in target.split("/"))


def _matrix(block: Matrix) -> str:
    upright = " class=upright" if max(map(len, block.labels), default=0) > WIDE else ""
    head = "".join(f"<th{upright}><span{_foreign(label)}>{escape(label)}</span></th>" for label in block.labels)
    lines = []
    for label, counts in zip(block.labels, block.counts, strict=True):
        total = sum(counts) or 1
        cells = "".join(f'<td style="--share:{count / total:.3f}">{count or ""}</td>' for count in counts)
        lines.append(f"<tr><th><span{_foreign(label)}>{escape(label)}</span></th>{cells}</tr>\n")
    return (
        '<p class="soft">Rows: the true label. Columns: the label given. Colour: share of the row.</p>\n'
        f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead>\n'
        f"<tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def _sample(sample: Sample) -> str:
    mark = {True: ("right", "✓ right"), False: ("wrong", "✗ wrong"), None: ("open", "")}[sample.right]
    parts = [("asked", sample.asked), ("expected", sample.expected), ("given", sample.given)]
    lines = "".join(
        f"<dt>{name}</dt><dd{_foreign(text)}>{escape(words.cut(text))}</dd>" for name, text in parts if text
    )
    note = f"{escape(sample.note)} " if sample.note else ""
    return (
        f'<div class="sample {mark[0]}"><p class="where"><b>{mark[1]}</b> {note}<span>{escape(sample.where)}</span></p>'
        f"<dl>{lines}</dl></div>\n"
    )
