"""Pages as files."""

from __future__ import annotations

from pathlib import Path

from tunery.report import html, markdown
from tunery.report.page import Page
from tunery.rundir import write_text

HTML, MARKDOWN = "report.html", "report.md"


def write(folder: Path, page: Page) -> Path:
    """``report.html`` and ``report.md`` in a folder → the first. Raises ResourceError if they cannot be written."""
    write_text(folder / MARKDOWN, markdown.render(page))
    write_text(folder / HTML, html.render(page))
    return folder / HTML
