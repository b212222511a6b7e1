"""Pages: hostile texts stay texts, nothing is fetched, pictures are legible and take the page's colours."""

from __future__ import annotations

import doctest
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tunery.report import html, labels, markdown, page, pages, pictures, words
from tunery.report.page import Code, Fold, Link, Matrix, Page, Picture, Sample, Samples, Table, Text, section
from tunery.report.pictures import Point

HOSTILE = "<script>alert('x')</script> <img src=http://evil.example/a.png onerror=x> \"&quot; --> ]]> $\\frac{a}{b}$"
RIGHT_TO_LEFT = "مرحبا \u202e بالعالم"
EMOJI = "酒店很好 👍🏽 \U0001f469\u200d\U0001f4bb"
BROKEN = "null \x00, escape \x1b[31m, half \ud83d"
TEXTS = [HOSTILE, RIGHT_TO_LEFT, EMOJI, BROKEN, "", "| a | b |", "```\n# title\n```", "x" * 5000]
VOID = ("meta", "br", "hr", "img")


class Tree(HTMLParser):
    """All tags with their attributes; every one that is opened must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def safe(text: str) -> Tree:
    """The page's tags; fails if the page could run or fetch anything."""
    tree = Tree(text)
    names = {tag for tag, _ in tree.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form", "img", "foreignobject"}
    for _, attributes in tree.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert re.match(r"#|data:image/png|[\w.-]+(/[\w.-]+)*\Z", value or ""), value
            assert "http" not in name or name == "http-equiv"
            assert "//" not in (value or "") or name in ("d",), (name, value)
            assert not re.search(r"url\((?!#)", value or ""), value
    assert "@import" not in text and "url(http" not in text
    return tree


def everything(text: str, pictured: bool) -> Page:
    """A page with that text in every place that can hold one."""
    sample = Sample(text, text, text, text, False, text)
    rows = [{text: text, "n": 1.5, "to": Link(text, "other/report.html"), "out": Link(text, "http://evil.example")}]
    return Page(
        text,
        text,
        [
            section(text, Text(text), Text(text, "note"), Table([text, "n", "to", "out"], rows, text), Code(text)),
            section("s", Matrix([text, "b"], [[1, 2], [0, 3]]), Samples([sample]), Fold(text, [Code(text)])),
            section("p", *(drawn(text) if pictured else [])),
        ],
        [text],
    )


def drawn(text: str) -> list[Picture | None]:
    points = [Point(text, 1, 0.5, 0.4, 0.6), Point("b", 100, 0.9)]
    return [
        pictures.pareto(points, text, text, text, unit="seconds"),
        pictures.curves({text: [(1, 2.0), (2, 1.0)], "b": [(1, 1.0)]}, text, text, text, log_y=True, mark=2),
        pictures.intervals([(text, 0.5, 0.4, 0.6), ("b", 0.1, None, None)], text, text, zero=True),
        pictures.reliability([(0.5, 0.4, 3), (0.9, 1.0, 10)], text),
        pictures.heat([[0.5, 0.5], [0.0, 1.0]], text, text, text),
    ]


@pytest.mark.parametrize("text", TEXTS, ids=["tags", "rtl", "emoji", "broken", "empty", "pipes", "fences", "long"])
def test_texts_stay_texts(text: str, tmp_path: Path) -> None:
    pictured = text in (HOSTILE, BROKEN)  # the others would only take their time
    file = pages.write(tmp_path, everything(text, pictured))
    tree = safe(file.read_text(encoding="utf-8"))
    shown = words.plain(text)
    assert text == "x" * 5000 or tree.text.count(shown) >= 10
    assert [attributes["lang"] for tag, attributes in tree.tags if tag == "html"] == ["en"]
    assert ("meta", {"charset": "utf-8"}) in tree.tags
    written = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img)", re.sub(r"(`{3,}).*?\1", "", written, flags=re.DOTALL))
    for line in written.splitlines():  # a text must not open cells of its own
        if line.startswith("| ") and "to" in line:
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_a_link_leads_below_the_folder_or_nowhere() -> None:
    for target in ("http://a.example", "//a.example/x", "/etc/passwd", "../x", "a/../../x", "javascript:x", "data:x"):
        assert "<a " not in html.blocks([Table(["l"], [{"l": Link("text", target)}])]), target
    odd = html.blocks([Table(["l"], [{"l": Link("x", 'a b"#<中/report.html')}])])
    assert '<a href="a%20b%22%23%3C%E4%B8%AD/report.html">' in odd
    assert '<a href="lora-1/report.html">' in html.blocks([Table(["l"], [{"l": Link("x", "lora-1/report.html")}])])


def test_text_of_pictures_is_text() -> None:
    """Matplotlib's own font has no Chinese: the browser must draw it."""
    picture = pictures.curves({"训练损失": [(1, 1.0), (2, 0.5)], "验证": [(1, 1.0)]}, "步", "损失", "曲线")
    assert picture is not None
    assert all(f">{text}</text>" in picture.svg for text in ("训练损失", "验证", "步", "损失"))
    assert "currentColor" in picture.svg and "var(--c0)" in picture.svg and "#0a0" not in picture.svg
    assert "http" not in picture.svg and "<!" not in picture.svg


def test_pictures_are_the_same_every_time_and_have_ids_of_their_own() -> None:
    first, again, other = (
        pictures.curves({"a": [(1, 1.0), (2, 0.5)]}, "x", "y", caption) for caption in ("one", "one", "two")
    )
    assert first == again and first is not None and other is not None
    ids = [set(re.findall(r'id="([^"]+)"', p.svg)) for p in (first, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_nothing_to_draw_is_no_picture() -> None:
    nan: Any = float("nan")
    assert pictures.curves({"a": []}, "x", "y", "c") is None
    assert pictures.curves({"a": [(1, nan)]}, "x", "y", "c") is None
    assert pictures.pareto([Point("a", nan, 1)], "x", "y", "c") is None
    assert pictures.intervals([], "x", "c") is None and pictures.reliability([], "c") is None


def test_the_front_holds_what_nothing_beats() -> None:
    points = [Point("cheap", 1, 0.5), Point("good", 10, 0.9), Point("worse", 11, 0.9), Point("equal", 10, 0.9)]
    assert [p.name for p in pictures.front(points)] == ["cheap", "good", "equal"]
    assert [p.name for p in pictures.front(points, higher_is_better=False)] == ["cheap"]


@pytest.mark.parametrize(("unit", "costs"), [("seconds", (16.2, 17.4)), ("bytes", (9.2e8, 1.1e9)), ("share", (0, 0.3))])
def test_ticks_differ(unit: Any, costs: tuple[float, float]) -> None:
    """Costs that are nearly the same must not give an axis on which every tick reads the same."""
    picture = pictures.pareto([Point("a", costs[0], 0.5), Point("b", costs[1], 0.6)], "x", "y", "c", unit=unit)
    assert picture is not None
    ticks = re.findall(r">([\d.]+ (?:s|min|%|B|[kMG]B))</text>", picture.svg)
    assert len(ticks) > 3 and len(set(ticks)) == len(ticks), ticks


def test_names_of_points_do_not_lie_on_each_other() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    names = [(f"candidate {i}", 1.0 + i / 1000, 0.5) for i in range(5)]
    axes.plot([x for _, x, _ in names] + [0, 2], [y for *_, y in names] + [0, 1], "o")
    labels.place(axes, names, "#000000")
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 5
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize("module", [words, page, pictures, markdown])
def test_examples_in_docstrings(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
