"""How a race spends its time: successive halving, planned from measured speeds.

All entrants train for a share of the steps, the better ones go on to the next rung, the best to the end (Jamieson &
Talwalkar 2016, arXiv:1502.07943). Where rows are few a rung is not a share of the steps but a number of seeds, each
with another split and other new weights: one training on a handful of rows says nothing about the next.

The logic is this file; Optuna's pruner would decide about one trial at a time as its numbers come in, and knows nothing
of time, of which there is a fixed amount here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

ETA = 3
"""Of so many entrants one goes on."""
FINALISTS = 2
"""At least so many go on to the last rung."""
LEAST_SHARE = 1 / 3
"""Entrants are left out rather than trained for a smaller share of the steps that were asked for."""
LEAST_ENTRANTS = 4
"""But so many stay."""
STEPS = 9
"""Evaluations of a whole training; also the fewest steps that it has."""


@dataclass(frozen=True, slots=True)
class Rung:
    """How far the entrants of a rung are trained."""

    share: float
    """Of all steps."""
    seeds: int
    """Trainings of each."""


LADDERS: dict[int, tuple[Rung, ...]] = {
    2: (Rung(1, 1),),
    4: (Rung(1 / 3, 1), Rung(1, 1)),
    99: (Rung(1 / 9, 1), Rung(1 / 3, 1), Rung(1, 1)),
}
"""By the most entrants that they are for."""
FEW_ROWS: tuple[Rung, ...] = (Rung(1, 2), Rung(1, 4))
"""Where rows are few."""


def ladder(entrants: int, few: bool) -> tuple[Rung, ...]:
    """The rungs of a race.

    >>> [rung.share for rung in ladder(3, few=False)]
    [0.3333333333333333, 1]
    """
    return FEW_ROWS if few else next(rungs for most, rungs in LADDERS.items() if entrants <= most)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds, on one worker's share of the CPUs."""

    start: float
    """Until the first step: the process, the data, the model."""
    step: float
    evaluation: float
    """Of all validation rows."""
    finish: float
    """After the last step: the last scores, and the weights to disk."""

    def slower(self, factor: float) -> Speed:
        return replace(self, **{name: getattr(self, name) * factor for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Plan:
    """What the time allows."""

    steps: int
    """Of a whole training."""
    every: int
    """Steps between evaluations; rungs end at one."""
    entrants: int
    rungs: tuple[Rung, ...]

    def until(self, rung: int) -> int:
        """The step at which a rung ends."""
        return max(round(self.steps * self.rungs[rung].share), 1)


def goes_on(entrants: int, workers: int, few: bool) -> int:
    """How many of a rung go on to the next: a third of them (of few rows a half), and as many more as the workers have
    hands free for.

    >>> goes_on(9, 1, few=False), goes_on(9, 2, few=False)
    (3, 4)
    """
    least = max(FINALISTS, math.ceil(entrants / (2 if few else ETA)))
    return min(entrants, math.ceil(least / workers) * workers)


def seconds(plan: Plan, speed: Speed, entrants: int, workers: int, first: int = 0, few: bool = False) -> float:
    """Wall time of the rungs from ``first`` on, begun by so many entrants."""
    total, count = 0.0, entrants
    for number in range(first, len(plan.rungs)):
        trainings, each = count, _training(plan, speed, number)
        if few:
            trainings *= plan.rungs[number].seeds - (plan.rungs[number - 1].seeds if number else 0)
        total += math.ceil(trainings / workers) * each
        count = goes_on(count, workers, few)
    return total


def _training(plan: Plan, speed: Speed, rung: int) -> float:
    """Of one entrant in one rung."""
    before = 0 if rung == 0 or plan.rungs[rung - 1].share == 1 else plan.until(rung - 1)
    steps = plan.until(rung) - before
    last = plan.until(rung) == plan.steps
    return speed.start + steps * speed.step + math.ceil(steps / plan.every) * speed.evaluation + last * speed.finish


def make(steps: int, entrants: int, speed: Speed, time: float, workers: int, few: bool, drop: bool = True) -> Plan:
    """The longest training, at most ``steps``, for which the time suffices.

    Entrants at the end of the list are left out where each would otherwise get less than a third of its training,
    unless the user named them (``drop`` is False).
    """
    for count in range(entrants, 0, -1):
        found = _longest(steps, count, speed, time, workers, few)
        enough = found is not None and found.steps >= steps * LEAST_SHARE
        if found and (enough or not drop or count <= min(LEAST_ENTRANTS, entrants)):
            return found
    return _plan(STEPS, 1, few)  # it is cut off when time is up


def fits(plan: Plan, speed: Speed, time: float, workers: int, few: bool) -> bool:
    return seconds(plan, speed, plan.entrants, workers, few=few) <= time


def _longest(steps: int, entrants: int, speed: Speed, time: float, workers: int, few: bool) -> Plan | None:
    low, high = 1, max(steps // STEPS, 1)
    if not fits(_plan(low * STEPS, entrants, few), speed, time, workers, few):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if fits(_plan(middle * STEPS, entrants, few), speed, time, workers, few):
            low = middle
        else:
            high = middle - 1
    return _plan(low * STEPS, entrants, few)


def _plan(steps: int, entrants: int, few: bool) -> Plan:
    return Plan(steps, steps if few else steps // STEPS, entrants, ladder(entrants, few))


def survivors(plan: Plan, rung: int, speeds: Sequence[Speed], time: float, workers: int, few: bool) -> int:
    """How many of those of a rung, best first, go on: as usual, or fewer if that is what the time left is for.

    Args:
        speeds: measured, of the entrants from the best to the worst.
    """
    usual = goes_on(len(speeds), workers, few)
    for count in range(usual, 1, -1):
        slowest = _slowest(speeds[:count])
        if seconds(plan, slowest, count, workers, rung + 1, few) <= time:
            return count
    return 1


def _slowest(speeds: Sequence[Speed]) -> Speed:
    return Speed(*(max(getattr(speed, name) for speed in speeds) for name in Speed.__slots__))
