"""Pictures as inline SVG that takes the page's colours, by matplotlib.

Text stays text in them, so that the reader's own fonts draw it, Chinese included, and it can be searched. matplotlib
is imported when a picture is drawn.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunery.report import labels, words
from tunery.report.page import Picture

WIDTH, HEIGHT = 7.2, 3.2
"""Inches; a page shows 96 pixels for each."""
INK, LINE, PAPER = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = [f"#0a0c0{i}" for i in range(8)]
"""Stand-ins: the page's variables take their places, so that one picture fits a light and a dark page."""
_VARIABLES = {INK: "currentColor", LINE: "var(--line)", PAPER: "var(--paper)"}
_VARIABLES |= {colour: f"var(--c{i})" for i, colour in enumerate(SERIES)}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "path.simplify": True,
}
MARKED = 15
"""Points of a curve up to which each has a dot."""
MOST_POINTS = 500
"""Points of a curve that are drawn; of a longer one means of neighbours."""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in a picture of two costs. ``low`` and ``high``: its interval in y."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


Unit = Literal["number", "seconds", "bytes", "share"]
_UNITS: dict[Unit, Callable[[float], str]] = {
    "number": words.short,
    "seconds": words.duration,
    "bytes": words.size,
    "share": lambda value: f"{100 * value:.3g} %",
}
_TIMES = (0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 3 * 3600, 10 * 3600, 24 * 3600)
_TIME_STEPS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 6 * 3600, 12 * 3600)
Series = Mapping[str, Sequence[tuple[float, float]]]
"""Curves by name: (x, y) in the order of x."""


def curves(
    series: Series, x: str, y: str, caption: str, *, log_y: bool = False, dots: bool = False, mark: float | None = None
) -> Picture | None:
    """Curves over the same x; None without a point.

    Args:
        mark: an x at which a line is drawn (the step that was kept).
        dots: points without lines between them.
    """
    series = {name: [(a, b) for a, b in points if math.isfinite(b)] for name, points in series.items()}
    series = {name: thinned(points) for name, points in series.items() if points}
    if not series:
        return None
    with _axes(caption) as (axes, drawn):
        for colour, (name, points) in zip(_colours(), series.items(), strict=False):
            style: dict[str, Any] = {"linestyle": "none"} if dots else {}
            few = len(points) <= MARKED or dots
            axes.plot(
                *zip(*points, strict=True), color=colour, label=_label(name), marker="o" * few, markersize=4, **style
            )
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), gid="mark")
        if log_y and min(b for points in series.values() for _, b in points) > 0:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        if all(float(a).is_integer() for points in series.values() for a, _ in points):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=_label(x), ylabel=_label(y))
        if len(series) > 1:
            axes.legend(fontsize=9)
    return drawn()


def pareto(
    points: Sequence[Point],
    x: str,
    y: str,
    caption: str,
    *,
    higher_is_better: bool = True,
    unit: Unit = "number",
) -> Picture | None:
    """Candidates by cost (x, less is better) and quality (y), with the front that nothing beats in both.

    ``unit``: of x. None without a point. x is logarithmic where costs differ more than tenfold.
    """
    points = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    if not points:
        return None
    best = {p.name for p in front(points, higher_is_better)}
    with _axes(caption, height=4.2) as (axes, drawn):
        spread = [p.x for p in points]
        if min(spread) > 0 and max(spread) > 10 * min(spread):
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, unit)
        else:
            _linear_ticks(axes.xaxis, unit, max(spread))
        along = sorted((p for p in points if p.name in best), key=lambda p: p.x)
        axes.plot([p.x for p in along], [p.y for p in along], color=SERIES[0], drawstyle="steps-post", alpha=0.6)
        for p in points:
            colour = SERIES[0] if p.name in best else SERIES[7]
            if p.low is not None and p.high is not None:
                axes.plot([p.x, p.x], [p.low, p.high], color=colour, linewidth=1, alpha=0.7)
            axes.plot([p.x], [p.y], marker="o", color=colour, markersize=7)
        axes.set(xlabel=_label(x), ylabel=_label(y))
        axes.margins(x=0.12, y=0.12)
        if unit in ("seconds", "bytes") and axes.get_xscale() == "linear":
            axes.set_xlim(0, 1.12 * max(spread))
        labels.place(axes, [(p.name, p.x, p.y) for p in points], INK)
    return drawn()


def front(points: Sequence[Point], higher_is_better: bool = True) -> list[Point]:
    """The points that no other one beats: none is as cheap and as good, and better in one of the two.

    >>> [p.name for p in front([Point("a", 1, .5), Point("b", 2, .9), Point("c", 3, .8), Point("d", 1, .4)])]
    ['a', 'b']
    """
    sign = 1 if higher_is_better else -1

    def beaten(p: Point) -> bool:
        return any(q.x <= p.x and sign * q.y >= sign * p.y and (q.x < p.x or sign * q.y > sign * p.y) for q in points)

    return [p for p in points if not beaten(p)]


def intervals(
    rows: Sequence[tuple[str, float, float | None, float | None]], x: str, caption: str, *, zero: bool = False
) -> Picture | None:
    """A line a row: name, value, and the ends of its interval where they are known. ``zero``: with a line at 0."""
    rows = [row for row in rows if math.isfinite(row[1])]
    if not rows:
        return None
    longest = max(labels.width_of(_label(row[0])) for row in rows)
    with _axes(caption, height=0.9 + 0.32 * len(rows), left=longest + 20) as (axes, drawn):
        for at, (_, value, low, high) in enumerate(rows):
            colour = SERIES[0]
            if low is not None and high is not None:
                axes.plot([low, high], [at, at], color=colour, linewidth=2.4, alpha=0.6, solid_capstyle="round")
            axes.plot([value], [at], marker="o", color=colour, markersize=7)
        if zero:
            axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [_label(row[0]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=_label(x))
    return drawn()


def reliability(bins: Sequence[tuple[float, float, int]], caption: str) -> Picture | None:
    """Share of right answers by mean probability given: (probability, share right, rows) a bin."""
    if not bins:
        return None
    most = max(count for _, _, count in bins)
    with _axes(caption, width=4.4, height=3.8) as (axes, drawn):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot([p for p, _, _ in bins], [right for _, right, _ in bins], color=SERIES[0], alpha=0.6)
        for probability, right, count in bins:
            axes.plot([probability], [right], marker="o", color=SERIES[0], markersize=4 + 8 * math.sqrt(count / most))
        axes.set(xlabel="probability of the answer", ylabel="share right", xlim=(0, 1.03), ylim=(-0.03, 1.03))
        axes.set_aspect("equal")
    return drawn()


def heat(shares: Sequence[Sequence[float]], x: str, y: str, caption: str) -> Picture | None:
    """A matrix of shares between 0 and 1 as cells, for more labels than have room to be named."""
    if not shares:
        return None
    from matplotlib.colors import LinearSegmentedColormap

    # one colour, more or less transparent: it is at home on light and dark paper
    colours = LinearSegmentedColormap.from_list("share", [(0.25, 0.5, 0.8, 0.0), (0.25, 0.5, 0.8, 1.0)])
    with _axes(caption, width=5.2, height=5.2) as (axes, drawn):
        axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="none", aspect="equal")
        axes.grid(visible=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=_label(x), ylabel=_label(y))
    return drawn()


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most that many points: means of neighbours.

    >>> thinned([(1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0)], 2)
    [(1.5, 3.0), (3.5, 7.0)]
    """
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(a for a, _ in g) / len(g), sum(b for _, b in g) / len(g)) for g in groups]


# ---------------------------------------------------------------------------------------------- drawing


def _label(text: str) -> str:
    """As far as there is room. Matplotlib leaves out what begins with an underscore."""
    shown = words.cut(words.plain(text), labels.LONGEST)
    return f" {shown}" if shown.startswith("_") else shown


def _colours() -> Iterator[str]:
    while True:
        yield from SERIES


def _plain_ticks(axis: Any, unit: Unit = "number") -> None:
    """Ticks of a logarithmic axis: round numbers without exponents, no more than have room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(FixedLocator(_TIMES) if unit == "seconds" else LogLocator(subs=(1, 3), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _UNITS[unit](value)))
    axis.set_minor_locator(NullLocator())


def _linear_ticks(axis: Any, unit: Unit, longest: float) -> None:
    """Of times: whole minutes, not hundreds of seconds."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    step = next((step for step in _TIME_STEPS if longest / step <= 6), 86_400)
    axis.set_major_locator(MultipleLocator(step) if unit == "seconds" else MaxNLocator(7, steps=(1, 2, 5, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _UNITS[unit](value)))


@contextlib.contextmanager
def _axes(
    caption: str, width: float = WIDTH, height: float = HEIGHT, left: float = 66
) -> Iterator[tuple[Any, Callable[[], Picture]]]:
    """Axes to draw in, and what gives the picture after that.

    Args:
        left: points beside the axes, for what stands there. Margins are given, as finding them means drawing twice.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells that it builds a cache of fonts
    import matplotlib
    from matplotlib.figure import Figure

    made: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": words.plain(caption)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # only measured with, drawn by the browser
        figure = Figure(figsize=(width, height))
        figure.patch.set_alpha(0)
        points = (72 * width, 72 * height)
        left = min(left, 0.6 * points[0])
        figure.subplots_adjust(left / points[0], 42 / points[1], 1 - 14 / points[0], 1 - 12 / points[1])
        yield figure.subplots(), lambda: Picture(made[0], caption)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    made.append(_inline(stream.getvalue(), caption))


def _inline(svg: str, caption: str) -> str:
    """The ``<svg>`` element alone: no names of namespaces, whose addresses look like links; the page's colours."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg, count=2)
    svg = re.sub(r'style="[^"]*"', _coloured, svg)
    salt = hashlib.sha256(caption.encode("utf-8", "replace")).hexdigest()[:6]
    svg = re.sub(r'(\bid="|="#|url\(#)', rf"\g<1>p{salt}-", svg)  # ids of several pictures on one page
    return svg.replace("<svg ", '<svg role="img" ', 1).strip()


def _coloured(match: re.Match[str]) -> str:
    style = match[0]
    for colour, variable in _VARIABLES.items():
        style = style.replace(colour, variable)
    return style
