"""What to heed in a race's result: leaks, a base of another language, trainings that were cut short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunery.decide import controls, rungs, standings
from tunery.decide.rungs import Plan
from tunery.rundir import RunDir

if TYPE_CHECKING:
    from tunery.decide.race import Race

_LEAKS = "it learns something: something leaks"


def warnings(race: Race, plan: Plan) -> list[str]:
    """Leaks, a base of another language, shuffled labels, trainings that were cut short: in words."""
    found = []
    language, leaks = race.ground.language, race.state["leaks"]
    if language and not language.known:
        found.append(
            f"The base does not know the language of the data, {language.language}: "
            f"{language.reason(race.ground.base.name)}; {language.advice}."
        )
    if leaks["rows"] or leaks["near"]:
        done = {"drop": "they were dropped from the earlier split", "warn": "they are still there (data.on_leak=warn)"}
        found.append(
            f"Leak: {leaks['rows']} rows stand in two splits and {leaks['near']} nearly do; "
            f"{done.get(leaks['policy'], leaks['policy'])}. The first: {leaks['first']}"
        )
    found += _shuffled(race)
    whole = race.state.get("full_steps", plan.steps)
    if plan.steps + rungs.STEPS <= whole:  # less is rounding
        found.append(
            f"Nobody was trained for more than {plan.steps} of the {whole} steps that were asked for: the budget was "
            "too small for them. With all of them (--budget) another may be ahead."
        )
    return found


def leak(race: Race) -> str | None:
    """What makes every score of the race worthless, if anything does. Read after ``warnings``."""
    leaks = race.state["leaks"]
    if leaks["rows"] and leaks["policy"] == "warn":
        return f"{leaks['rows']} rows stand in two splits"
    if race.state["controls"]["shuffled"]["verdict"] == _LEAKS:
        return "a run on shuffled labels learns something"
    return None


def _shuffled(race: Race) -> list[str]:
    """What the run on meaningless labels has learnt goes to ``controls``, what is wrong with it into the warnings."""
    states: dict[str, Any] = race.state["controls"]
    arm = next((arm for arm in race.controls if arm.name == controls.SHUFFLED), None)
    if arm is None:
        states["shuffled"] = {"verdict": "not applicable: only rows with one label each have labels to shuffle"}
        return []
    run = RunDir(race.folder / race.run_name(arm, race.seeds[0]))
    records = standings.read(run.evaluation("validation") / "predictions.jsonl")
    labels = [str(record["reference"]) for record in records]
    right = sum(str(record["prediction"]) == str(record["reference"]) for record in records)
    found = controls.learnt(right, len(records), labels)
    heart = states["by_heart"]
    leaks = found["learnt"] or heart["learnt"]
    said = _LEAKS if leaks else "learns nothing"
    states["shuffled"] = {**found, "verdict": said if records or leaks else "did not finish"}
    if not leaks:
        return []
    worse = max((found, heart), key=lambda item: item["right"] / max(item["rows"], 1))
    return [
        f"Something leaks: trained on shuffled labels, which mean nothing, {worse['right']} of {worse['rows']} "
        f"validation rows are right (the most frequent label: {worse['majority']:.0%}; chance of that: "
        f"{worse['p']:.1g}). Rows of validation, or copies of them, must be among the training rows: see tunery check."
    ]
