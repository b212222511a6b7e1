"""Options of verbs that generate text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import click


class Range(click.FloatRange):
    """Without NaN, which is in no range and yet beyond none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number", param, ctx)
        return found


_OPTIONS = (
    click.option("--max-new-tokens", type=click.IntRange(1), help="longest answer"),
    click.option("--temperature", type=Range(0), help="0: the most likely token (default)"),
    click.option("--top-p", type=Range(0, 1, min_open=True), help="smallest set of this probability"),
    click.option("--top-k", type=click.IntRange(0), help="only the k most likely tokens; 0: all"),
    click.option("--repetition-penalty", type=Range(0.01, 10), help="above 1: repeat less"),
    click.option("--seed", type=int, help="of the sampling"),
)


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the function gets those that were given as ``sampling``."""

    @functools.wraps(function)
    def run(**kwargs: Any) -> Any:
        names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
        given = {name: value for name in names if (value := kwargs.pop(name)) is not None}
        return function(**kwargs, sampling=given)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
