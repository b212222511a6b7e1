"""How fast a race's trainings are, measured, and the plan that follows from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from tunery.decide import rungs, track, trial
from tunery.decide.arms import Arm
from tunery.decide.rungs import Plan, Speed
from tunery.errors import ModelError
from tunery.run.records import say

if TYPE_CHECKING:
    from tunery.decide.race import Race

SAFE = 0.85
"""Share of the time left that is planned; the rest is for what takes longer than measured."""
PROBE_STEPS, PROBE_EVERY = 16, 8
PROBE_SHARE = 0.15
"""Of the budget that measuring speeds may take, at most."""
TEST_SHARE = 0.2
"""Of the budget that the test rows may take, at most."""
PARTS = ("start", "step", "evaluation", "finish")


def probe(race: Race) -> Speed:
    """The slower of two entrants, on all workers at once as in the race; of others where those fail."""
    first, second = race.entrants[0], next((a for a in race.entrants if a.name == "full"), race.entrants[-1])
    waiting = list({arm.name: arm for arm in (first, second, *race.entrants)}.values())
    found: list[dict[str, float]] = []
    problems: dict[str, str] = {}
    late = False

    def work(arm: Arm, cpus: list[int]) -> None:
        nonlocal late
        name = f"speed-{arm.name}"
        with suppress(ModelError):
            trial.standing(race.folder / name)  # of a race that was killed, and may still be at work
        track.remove(race.folder / name)
        config = race.configured(arm, race.seeds[0], name, PROBE_STEPS, PROBE_EVERY)
        if config is None:
            problems[arm.name] = race.state["legs"][name]["problem"]
            return
        limit = PROBE_SHARE * race.clock.budget
        leg = track.advance(config, PROBE_STEPS, cpus, race.log(name), limit, race.stop, {}, None)
        if leg["speed"] and leg["step"]:
            found.append(leg["speed"])
        problems[arm.name] = leg["problem"]
        late = late or leg["status"] == "interrupted"
        track.remove(race.folder / name)

    while waiting and not found and not late:
        count = min(max(len(race.cpus), 1), 2)
        chosen, waiting = waiting[:count], waiting[count:]
        say(f"measuring the speed of {' and '.join(arm.name for arm in chosen)}")
        track.each(chosen, race.cpus, work, race.stop)
    if not found:
        why = "; ".join(f"{name}: {problem}" for name, problem in problems.items() if problem)
        hint = "give the race a larger --budget" if late else "see the logs"
        problem = f"no entrant got through {PROBE_EVERY} steps: {why}"
        raise ModelError(problem, hint, str(race.folder / "logs"))
    speed = Speed(**{part: max(item[part] for item in found) for part in PARTS})
    race.update(speed=asdict(speed))
    return speed


def plan(race: Race, speed: Speed) -> Plan:
    """Second learning rates take part where all have their full training, or where a worker would else be idle."""
    few, workers = race.ground.few, len(race.cpus)
    plain = [arm for arm in race.entrants if arm.factor == 1]
    time = SAFE * (race.clock.left - scoring_time(race, speed))
    # each control costs about what an entrant's first rung does
    time -= -(-(len(race.controls) * len(race.seeds) + 1) // workers) * (speed.start + 2 * speed.evaluation)
    found = rungs.make(race.ground.steps, len(plain), speed, time, workers, few, drop=not race.state["methods"])
    if found.entrants == len(plain):
        for count in range(len(race.entrants), len(plain), -1):
            more = rungs.make(race.ground.steps, count, speed, time, workers, few, drop=False)
            if more.entrants == count and more.steps >= found.steps:
                found = more
                break
    taking = race.entrants[: found.entrants]
    race.state["left_out"] += [
        {"name": arm.name, "reason": "no time for it in this budget"} for arm in plain if arm not in taking
    ]
    race.entrants = taking
    race.update(plan=asdict(found), entrants=[arm.name for arm in taking], full_steps=race.ground.steps)
    said = " → ".join(f"{found.until(i)} steps x {r.seeds}" for i, r in enumerate(found.rungs))
    say(f"{len(taking)} entrants, {workers} at a time; rungs: {said} (a whole training: {race.ground.steps} steps)")
    return found


def scoring_time(race: Race, speed: Speed) -> float:
    """Seconds that are kept for the test rows of the finalists."""
    rows = race.state["rows"]
    if "test" not in rows:
        return 0.0
    share = 1 if race.ground.task.output == "text" else rows["test"] / max(rows["validation"], 1)
    each = speed.start + max(speed.evaluation, speed.finish) * share
    return min(-(-(rungs.FINALISTS + 1) // len(race.cpus)) * each, TEST_SHARE * race.clock.budget)
