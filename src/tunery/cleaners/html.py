"""HTML: tags, comments and entities."""

from __future__ import annotations

import html
import re
from typing import Literal

from tunery.protocols import Cleaner, Strict

BLOCK = (
    "address article aside blockquote br center dd details dialog div dl dt fieldset figcaption figure footer form h1 "
    "h2 h3 h4 h5 h6 header hr legend li main nav ol option p pre section select summary table tbody tfoot thead title "
    "tr ul"
)
CELL = "td th"
INLINE = (
    "a abbr acronym area audio b base bdi bdo big body button canvas caption cite code col colgroup data datalist del "
    "dfn em embed font frame frameset head html i iframe img input ins kbd label link map mark meta meter nobr "
    "noscript object output param picture progress q rp rt ruby s samp small source span strike strong sub sup svg "
    "template textarea time track tt u var video wbr"
)
# "<" in an attribute's value ends the attempt: each attempt reads to the next "<" at most, so that no text takes long
_INSIDE = r"""(?=[\s/>])(?:"[^"<]*"|'[^'<]*'|[^'"<>])*+>"""


def _tags(names: str) -> re.Pattern[str]:
    return re.compile(f"</?(?:{names.replace(' ', '|')}){_INSIDE}", re.IGNORECASE)


_LINES, _CELLS, _NOTHING = _tags(BLOCK), _tags(CELL), _tags(f"{INLINE} script style")
_DOCTYPE = re.compile(r"<!doctype[^<>]*>", re.IGNORECASE)
_BREAK = re.compile(r"(?<![ \t])[ \t]*\n\s*")
_HIDDEN = (
    (re.compile("<!--"), re.compile("-->")),
    (re.compile(rf"<script{_INSIDE}", re.IGNORECASE), re.compile(r"</script\s*>", re.IGNORECASE)),
    (re.compile(rf"<style{_INSIDE}", re.IGNORECASE), re.compile(r"</style\s*>", re.IGNORECASE)),
)


class Html(Cleaner):
    """Only what is a tag of HTML is taken out: ``a < b``, ``<name>`` and ``<3`` stay."""

    class Config(Strict):
        name: Literal["html"] = "html"

    summary = "HTML tags, comments and scripts go, entities become characters; paragraphs and cells stay apart"

    def clean(self, text: str) -> str:
        if "<" in text:
            for opening, closing in _HIDDEN:
                text = _without(text, opening, closing)
            text = _NOTHING.sub("", _CELLS.sub(" ", _LINES.sub("\n", _DOCTYPE.sub("", text))))
            text = _BREAK.sub("\n", text).strip()
        return html.unescape(text) if "&" in text else text


def _without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """All that stands between two marks; an opening one that is never closed stays."""
    kept, at = [], 0
    while begin := opening.search(text, at):
        end = closing.search(text, begin.end())
        if end is None:
            break
        kept.append(text[at : begin.start()])
        at = end.end()
    return "".join([*kept, text[at:]])
