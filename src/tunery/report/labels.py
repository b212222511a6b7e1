"""Names beside points, where they do not lie on each other."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from tunery.report import words

SIZE = 9
"""Of the letters, in points."""
_WIDE = 0.62
"""Mean width of a letter, as a share of its size; a Chinese character takes 1."""
Box = tuple[float, float, float, float]
LONGEST = 40
"""Letters of a name."""


def place(axes: Any, names: Sequence[tuple[str, float, float]], colour: str) -> None:
    """Write each (name, x, y) right of, left of, above or below its point, wherever there is room first."""
    axes.get_xlim(), axes.get_ylim()  # settles where points are
    points = [tuple(axes.transData.transform((x, y))) for _, x, y in names]
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    taken: list[Box] = [_around(x, y, 5 * scale) for x, y in points]
    for (name, x, y), at in zip(names, points, strict=True):
        text = words.plain(words.cut(name, LONGEST))
        width, height = width_of(text) * scale, SIZE * 1.2 * scale
        box, offset, align = _best(list(_around_point(at, width, height, scale)), taken, frame)
        taken.append(box)
        axes.annotate(
            text, (x, y), offset, textcoords="offset points", ha=align, va="center", fontsize=SIZE, color=colour
        )


def width_of(text: str) -> float:
    """In points, nearly."""
    return sum(SIZE * (1.0 if unicodedata.east_asian_width(c) in "WF" else _WIDE) for c in text)


def _around(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def _around_point(
    at: tuple[float, ...], width: float, height: float, scale: float
) -> Iterator[tuple[Box, tuple[float, float], str]]:
    """Places to try: the box in pixels, the offset of the text in points, and its alignment."""
    for rise in (0, 11, -11, 22, -22, 33, -33):
        for side in (1, -1, 0):
            if side == 0 and rise == 0:
                continue
            x, y = at[0] + side * 8 * scale, at[1] + rise * scale
            left = x if side > 0 else x - width if side < 0 else x - width / 2
            box = (left, y - height / 2, left + width, y + height / 2)
            yield box, (side * 8.0, float(rise)), {1: "left", -1: "right", 0: "center"}[side]


def _best(
    places: Sequence[tuple[Box, tuple[float, float], str]], taken: Sequence[Box], frame: Any
) -> tuple[Box, tuple[float, float], str]:
    """The first place with the least covered; what runs out of the frame counts as covered."""

    def covered(place: tuple[Box, tuple[float, float], str]) -> float:
        left, low, right, high = place[0]
        outside = max(0.0, frame.x0 - left) + max(0.0, right - frame.x1)
        over: float = sum(
            max(0.0, min(right, b[2]) - max(left, b[0])) * max(0.0, min(high, b[3]) - max(low, b[1])) for b in taken
        )
        return float(over + outside * (high - low))

    return min(places, key=covered)
