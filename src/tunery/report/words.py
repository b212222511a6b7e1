"""Numbers and texts as people read them."""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
_CHINESE = re.compile("[\u3400-\u9fff]")
_JAPANESE = re.compile("[\u3040-\u30ff]")


def plain(text: Any) -> str:
    r"""Text that every file and browser can hold: lone surrogates and control characters become visible.

    >>> plain("a\x00b\ud800")
    'a�b?'
    """
    return _CONTROL.sub("\ufffd", str(text)).encode("utf-8", "replace").decode("utf-8")


def cut(text: str, longest: int = 600) -> str:
    """A long text without its middle; where there is room it says how much is gone. Never longer than before.

    >>> cut("a" * 1000 + "b" * 1000, 120)[55:-55]
    'aaaaa … [1880 characters left out] … bbbbb'
    >>> cut("abcdefghij", 4)
    'ab…ij'
    """
    left_out = len(text) - longest
    if left_out <= 0:
        return text
    head = longest - longest // 2
    gap = f" … [{left_out} characters left out] … " if longest > 100 else "…"
    short = f"{text[:head]}{gap}{text[len(text) - longest // 2 :]}"
    return short if len(short) < len(text) else text


def cell(value: Any) -> str:
    """A value in a table.

    >>> [cell(value) for value in (None, True, 0.91234, 1234567, 3e-05, 12345.6, "a")]
    ['–', 'yes', '0.9123', '1,234,567', '3e-05', '12,346', 'a']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell(part) for part in value)
    return str(value)


def number(value: float) -> str:
    """A measured number: four decimals where it is below 100, none above 1000, its exponent where it is tiny.

    >>> [number(value) for value in (0.5, 0.0001, 25.123456, 250.26, 0.0, float("inf"))]
    ['0.5000', '0.0001', '25.1235', '250.3', '0.0000', 'inf']
    """
    size = abs(value)
    if 0 < size < 1e-4:
        return f"{value:.2g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.4f}"


def score(value: float) -> str:
    """A score in a sentence: three decimals where it is small.

    >>> [score(value) for value in (0.85321, 12.3456, 345.6)]
    ['0.853', '12.35', '345.6']
    """
    return f"{value:.{3 if abs(value) < 10 else 2 if abs(value) < 100 else 1}f}"


def short(value: float) -> str:
    """A round number, as at an axis.

    >>> [short(value) for value in (0.5, 30, 3000, 1e6, 1e-5)]
    ['0.5', '30', '3,000', '1,000,000', '1e-05']
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def size(count: float) -> str:
    """Bytes for people.

    >>> size(1_500_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def duration(seconds: float) -> str:
    """A time for people.

    >>> [duration(s) for s in (0, 0.25, 7, 75, 3700, 90_000)]
    ['0 s', '0.2 s', '7 s', '1 min 15 s', '1 h 1 min', '25 h']
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 3 else f"{seconds:.0f} s"
    whole = round(seconds)
    large, small, names = (whole // 60, whole % 60, ("min", "s"))
    if whole >= 3600:
        large, small, names = whole // 3600, whole % 3600 // 60, ("h", "min")
    return f"{large} {names[0]}" + (f" {small} {names[1]}" if small else "")


def language(text: str) -> str:
    """``zh`` for a text in Chinese characters, which other languages draw otherwise; else nothing.

    >>> language("你好"), language("ひらがな漢字"), language("hello")
    ('zh', 'ja', '')
    """
    if not _CHINESE.search(text):
        return ""
    return "ja" if _JAPANESE.search(text) else "zh"
