"""Chinese words by jieba."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tunery.data.words import CJK
from tunery.errors import ConfigError

_RUN = re.compile(f"([{CJK}]+)")


def ready(what: str, where: str) -> None:
    """Raises ConfigError if jieba is missing. ``what`` needs it, ``where`` is the key."""
    try:
        import jieba  # noqa: F401
    except ImportError:
        raise ConfigError(f"{what} needs jieba", "pip install 'tunery[clean]'", where) from None


@cache
def _jieba() -> Any:
    import jieba

    tokenizer = jieba.Tokenizer()
    # Its own way keeps a marshalled copy of the dictionary in the common temporary folder, which anybody may write.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


def segment(text: str) -> list[str]:
    """The text in pieces: Chinese words, and what stands between them. Joined again they are the text."""
    found: list[str] = []
    for place, run in enumerate(_RUN.split(text)):
        found += _jieba().lcut(run) if place % 2 else [run] if run else []
    return found
