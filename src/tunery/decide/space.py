"""What a search may try: configuration keys with a range or with a list of values.

    train.lr: {log: [1e-5, 1e-3]}       a number between the two, evenly by its logarithm
    train.warmup: {range: [0.0, 0.2]}   a number between the two
    train.epochs: {range: [1, 5]}       whole bounds: a whole number, both ends included
    train.dropout: {range: [0.0, 0.4], step: 0.1}
    method.r: [4, 8, 16]                one of these, of any type

Optuna's names for them are its distributions. It stores plain values only, so other choices (lists, mappings) go to
it as JSON.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunery import config as configuration
from tunery.config.problems import PLUGINS, Problem, shown, together
from tunery.config.yaml12 import value as parse_value
from tunery.errors import ConfigError, near

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 4
"""Digits that a drawn number keeps: a learning rate of 0.0003427891 is no better than one of 0.0003428."""
MANY = 10_000
"""More combinations than these are not counted: to a search they are endless."""
_WRITE = "write {log: [LOW, HIGH]}, {range: [LOW, HIGH]} or [VALUE, VALUE, …]"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @property
    def samples(self) -> list[Any]:
        """Values that tell whether all of them are of the right type and within a key's bounds."""
        middle = (self.low + self.high) / 2
        return [self.low, round(middle) if self.whole else self.tidy(middle), self.high]

    @property
    def values(self) -> list[Any] | None:
        """All values in order; None: too many to count."""
        if not self.whole and self.step is None:
            return None
        step = self.step or 1
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.tidy(self.low + i * step) for i in range(count)] if count <= MANY else None

    def tidy(self, value: float) -> float:
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def nearest(self, value: Any) -> Any:
        """The value in here that is nearest to one found elsewhere; None: that is no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        value = min(max(value, self.low), self.high)
        if self.values is not None:
            return min(self.values, key=lambda each: abs(each - value))
        return self.tidy(value)

    def written(self) -> dict[str, Any]:
        found: dict[str, Any] = {"log" if self.log else "range": [self.low, self.high]}
        return found if self.step is None else {**found, "step": self.step}

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values of any type."""

    values: tuple[Any, ...]

    @property
    def samples(self) -> list[Any]:
        return list(self.values)

    def nearest(self, value: Any) -> Any:
        """As ``Range.nearest``; of two numbers the nearer by ratio."""
        if any(_same(value, each) for each in self.values):
            return value
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not numbers or isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if value > 0 and min(numbers) > 0:
            return min(numbers, key=lambda each: abs(math.log(each / value)))
        return min(numbers, key=lambda each: abs(each - value))

    def written(self) -> list[Any]:
        return list(self.values)

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([_stored(value) for value in self.values])


Space = dict[str, Range | Choice]
"""Range or choice by configuration key."""
Settings = dict[str, Any]
"""Values by configuration key: one point of a space."""


def parse(written: Mapping[str, Any]) -> Space:
    """What was written for each key, sections nested or not. Raises ConfigError that names all problems."""
    problems: list[Problem] = []
    found: Space = {}
    for key, value in _flat(written):
        try:
            found[key] = _one(value)
        except ValueError as error:
            problems.append(Problem(key, str(error), _WRITE))
    if problems:
        raise together(problems)
    return found


def parse_options(options: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """``KEY=RANGE`` from the command line, in YAML syntax. Raises ConfigError for what is none."""
    found = {}
    for option in options:
        key, sep, text = option.partition("=")
        if not sep or not key.strip():
            hint = "write KEY=RANGE, for example 'train.lr={log: [1e-5, 1e-3]}'"
            raise ConfigError(f"{option!r} is no range", hint, "--space")
        found[key.strip()] = parse_value(text)
    return found


def _flat(written: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``train: {lr: [...]}`` is ``train.lr: [...]``; a bare ``method:`` means its name."""
    sections = (*configuration.SECTIONS, *PLUGINS)
    for key, value in written.items():
        if key in sections and isinstance(value, Mapping) and not value.keys() & {"log", "range"}:
            yield from ((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            yield f"{key}.name" if key in configuration.NAMED else str(key), value


def _one(value: Any) -> Range | Choice:
    """Raises ValueError in words for the user."""
    if isinstance(value, list):
        if not value:
            raise ValueError("an empty list leaves nothing to try")
        texts = [json.dumps(each, sort_keys=True, default=str) for each in value]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} stands twice in the list")
        return Choice(tuple(value))
    if not isinstance(value, Mapping):
        raise ValueError(f"a range or a list is needed, not {shown(value)}")
    kinds = [kind for kind in ("log", "range") if kind in value]
    unknown = [str(key) for key in value if key not in ("log", "range", "step")]
    if unknown:
        raise ValueError(f"{unknown[0]!r} says nothing about a range ({near(unknown[0], ['log', 'range', 'step'])})")
    if len(kinds) != 1:
        raise ValueError("one of log and range is needed")
    bounds, step = value[kinds[0]], value.get("step")
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_number(bound) for bound in bounds):
        raise ValueError(f"two numbers are needed, the lowest and the highest, not {shown(bounds)}")
    low, high = bounds
    if low >= high:
        raise ValueError(f"the lowest value must be below the highest, not {low:g} and {high:g}")
    if kinds == ["log"] and low <= 0:
        raise ValueError(f"a logarithmic range begins above zero, not at {low:g}")
    if step is not None and (kinds == ["log"] or not _number(step) or not 0 < step <= high - low):
        raise ValueError("a step is a positive number within an even range")
    return Range(low, high, kinds == ["log"], step)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# ----------------------------------------------------------------------------------------------- to Optuna


def distributions(space: Space) -> dict[str, BaseDistribution]:
    return {key: item.distribution() for key, item in space.items()}


def settings_of(space: Space, params: Mapping[str, Any]) -> Settings:
    """What Optuna's parameters mean."""
    found: Settings = {}
    for key, item in space.items():
        if isinstance(item, Range):
            found[key] = item.tidy(params[key])
        else:
            found[key] = next(value for value in item.values if _same(_stored(value), params[key]))
    return found


def params_of(settings: Settings) -> dict[str, Any]:
    """The inverse of ``settings_of``."""
    return {key: _stored(value) for key, value in settings.items()}


def combinations(space: Space) -> list[Settings] | None:
    """Every point, the last key changing fastest; None: there are too many to count."""
    values = [item.values for item in space.values()]
    if any(each is None for each in values) or math.prod(len(each or ()) for each in values) > MANY:
        return None
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*(each or () for each in values))]


def written(space: Space) -> dict[str, Any]:
    """As it stands in a file."""
    return {key: item.written() for key, item in space.items()}


def _stored(value: Any) -> Any:
    """Optuna's storages hold plain values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _same(a: Any, b: Any) -> bool:
    """1 is not true."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
