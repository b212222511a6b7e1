"""The lists ``data.clean`` and ``data.augment``: names, or mappings with a name and the step's own keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from tunery import registry
from tunery.config import problems as wrong
from tunery.config.problems import Problem
from tunery.protocols import Strict

Kind = Literal["cleaner", "augmenter"]
KEYS: dict[Kind, str] = {"cleaner": "data.clean", "augmenter": "data.augment"}


def parse(kind: Kind, value: Any) -> list[Strict]:
    """The configurations of the steps. Raises ConfigError that names all problems.

    >>> parse("cleaner", ["html", {"name": "length", "min": 3}])[1].min
    3
    """
    problems: list[Problem] = []
    steps = collect(kind, value, problems)
    if problems:
        raise wrong.together(problems)
    return steps


def collect(kind: Kind, value: Any, problems: list[Problem]) -> list[Strict]:
    """As ``parse``, with the problems in a list."""
    where = KEYS[kind]
    if not isinstance(value, list):
        hint = f"write [{value}]" if isinstance(value, str) else f"known steps: {', '.join(registry.names(kind))}"
        problems.append(Problem(where, f"a list of steps is needed, not {_shown(value)}", hint))
        return []
    steps = [_step(kind, f"{where}[{place}]", item, problems) for place, item in enumerate(value)]
    return [step for step in steps if step is not None]


def _step(kind: Kind, where: str, item: Any, problems: list[Problem]) -> Strict | None:
    if isinstance(item, Strict):
        return item
    given = {"name": item} if isinstance(item, str) else item
    names = registry.names(kind)
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        meant = next((name for name in names if isinstance(given, Mapping) and name in given), None)
        hint = f"write {{name: {meant}, …}}" if meant else "write NAME or {name: NAME, …}"
        problems.append(Problem(where, f"a step is needed, not {_shown(item)}", f"{hint}; known: {', '.join(names)}"))
        return None
    name = given["name"]
    if name not in names:
        problems.append(Problem(where, f"unknown step {name!r}", registry.near(name, names)))
        return None
    model = registry.config_class(kind, name)
    values = {str(key): inner for key, inner in given.items()}
    place = f"{where}.{name}"
    found = wrong.booleans(place, values, model)
    try:
        step = model.model_validate(values)
    except ValidationError as error:
        problems += found + wrong.explain(error, place, values, {place: model})
        return None
    problems += found
    return step


def _shown(value: Any) -> str:
    return wrong.shown(dict(value) if isinstance(value, Mapping) else value)
