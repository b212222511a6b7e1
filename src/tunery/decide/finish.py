"""The end of a race: the table, who is better than whom, one sentence, and a configuration to go on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tunery import config as configuration
from tunery import scoring
from tunery.decide import controls, heed, race_report, score, standings, track, verdict
from tunery.decide.arms import Arm
from tunery.decide.rungs import Plan
from tunery.decide.standings import Candidate, Measure
from tunery.protocols import Scored
from tunery.run.records import say
from tunery.rundir import RunDir, read_json, write_text

if TYPE_CHECKING:
    from tunery.decide.race import Race

RECOMMENDED = "recommended.yaml"
RESPECTS = {"score": True, "seconds": False, "peak_memory_bytes": False, "adapter_bytes": False, "forgetting": False}
"""In which an entrant may be better than others; True: more is better."""
_BESIDE = ("tokenizer", ".json", ".jinja", ".txt", ".model", ".md")


def write(race: Race, alive: Sequence[Arm], plan: Plan) -> None:
    """Complete ``race.json``, and write the report and ``recommended.yaml``."""
    task = race.ground.task
    measure = standings.measure_of(task.kinds, task.metrics, race.ground.uneven)
    table = [_entry(race, arm, plan) for arm in [*race.entrants, *race.controls]]
    if measure:
        table += _baseline_entries(race)
    found = _decided(race, alive, measure)
    means = (found["decided_on"] or {}).get("means", {})
    for row in table:
        row["decided"] = means.get(row["name"])
    better = {**RESPECTS, "score": race.sign > 0}
    points = [row for row in table if row["kind"] == "method" and row["score"] is not None]
    front = standings.front(points, better)
    for row in table:
        row["pareto"] = row["name"] in front
    warnings = heed.warnings(race, plan)
    found["recommendation"] = verdict.heeding(found["recommendation"], heed.leak(race))
    race.update(
        metric={"name": race.metric, "higher_is_better": race.sign > 0},
        table=sorted(table, key=lambda row: _order(row, race.sign)),
        warnings=warnings,
        **found,
    )
    _recommend(race, found["winner"], plan)
    race.update(status="completed", problem="")
    race_report.write(race.folder, race.state)
    say(found["recommendation"])


# --------------------------------------------------------------------------------------------- the table


def _entry(race: Race, arm: Arm, plan: Plan) -> dict[str, Any]:
    names = [race.run_name(arm, seed) for seed in race.seeds]
    manifests = {name: m for name in names if (m := track.manifest(race.folder / name))}
    legs = [race.state["legs"][name] for name in names if name in race.state["legs"]]
    steps = max((leg.get("step", 0) for leg in legs), default=0)
    problem = next((leg["problem"] for leg in legs if leg["problem"]), "")
    one: dict[str, Any] = next(iter(manifests.values()), {})
    seeds = [seed for seed, name in zip(race.seeds, names, strict=True) if name in manifests]
    return {
        "name": arm.name,
        "kind": arm.kind,
        "state": _state(legs, one, problem, steps, plan),
        "reason": problem,
        "score": race.score(arm, race.seeds) if arm.name != controls.SHUFFLED else None,
        "test": _test_score(race, names),
        "share": round(min(steps / plan.steps, 1), 3) if arm.steps is None else None,
        "seeds": len(seeds),
        "seconds": round(sum(leg.get("train_seconds", 0.0) for leg in legs) / max(len(legs), 1), 1),
        "peak_memory_bytes": max((m.get("peak_memory_bytes") or 0 for m in manifests.values()), default=0) or None,
        "trainable_parameters": one.get("parameters", {}).get("trainable"),
        "adapter_bytes": one.get("adapter_bytes") or adapter_bytes(race.folder, list(manifests)),
        "forgetting": (one.get("forgetting") or {}).get("relative"),
        "runs": list(manifests),
    }


def _state(legs: Sequence[dict[str, Any]], manifest: dict[str, Any], problem: str, steps: int, plan: Plan) -> str:
    statuses = {leg["status"] for leg in legs}
    if not legs:
        return "not run"
    if "failed" in statuses and not manifest.get("metrics"):
        return "failed"
    if statuses == {"completed"} or manifest.get("status") == "completed":
        return "finished"
    return "left behind" if "paused" in statuses else "no time"


def adapter_bytes(folder: Path, names: Sequence[str]) -> int | None:
    """Of the weights that a finished run keeps; None without one."""
    for name in names:
        files = [f for f in RunDir(folder / name).model.glob("**/*") if f.is_file() and not f.name.endswith(_BESIDE)]
        if files:
            return sum(f.stat().st_size for f in files if not f.name.startswith("tokenizer"))
    return None


def _test_score(race: Race, names: Sequence[str]) -> float | None:
    """The race's number on the test rows, mean over seeds."""
    files = [RunDir(race.folder / name).evaluation(score.NAME) / "results.json" for name in names]
    found = [read_json(file)["metrics"].get(race.metric) for file in files if file.is_file()]
    values = [value for value in found if value is not None]
    return fmean(values) if values else None


def _baseline_entries(race: Race) -> list[dict[str, Any]]:
    rows = []
    for name in _baselines(race):
        row: dict[str, Any] = dict.fromkeys(_KEYS)
        row |= {"name": name, "kind": "baseline", "state": "finished", "reason": "", "runs": [], "seeds": 1}
        numbers = {"score": _guessed(race, name, "validation"), "test": _guessed(race, name, "test")}
        rows.append(row | numbers | {"seconds": 0.0})
    return rows


def _guessed(race: Race, name: str, split: str) -> float | None:
    """The race's number of a baseline, mean over seeds; None for one that no guess has (a loss)."""
    if scoring.metric_of(race.metric).kind == "loss":
        return None
    found = []
    for seed in race.seeds:
        records = standings.read(race.folder / "baselines" / f"seed{seed}" / split / f"{name}.jsonl")
        if records:
            guesses, references = ([standings.plain(r[key]) for r in records] for key in ("prediction", "reference"))
            scored = Scored(guesses, references, labels=tuple(getattr(race.ground.task, "labels", ())))
            found.append(scoring.score(scored, [race.metric], race.ground.task.kinds).get(race.metric))
    values = [value for value in found if value is not None]
    return fmean(values) if values else None


_KEYS = (
    "name", "kind", "state", "reason", "score", "test", "share", "seeds", "seconds", "peak_memory_bytes",
    "trainable_parameters", "adapter_bytes", "forgetting", "runs",
)  # fmt: skip


def _order(row: dict[str, Any], sign: int) -> tuple[bool, float, float]:
    """Finished ones first, then by how far they came."""
    scored = row["score"] is not None
    return (not scored, -(row["share"] if row["share"] is not None else 1.0), -sign * (row["score"] or 0.0))


# ----------------------------------------------------------------------------------------- who is better


def _baselines(race: Race) -> list[str]:
    folder = race.folder / "baselines" / f"seed{race.seeds[0]}" / "validation"
    return sorted(file.stem for file in folder.glob("*.jsonl"))


def _baseline(race: Race, name: str, split: str, measure: Measure) -> Candidate:
    found = Candidate(name, "baseline")
    for seed in race.seeds:
        _add(found, seed, standings.read(race.folder / "baselines" / f"seed{seed}" / split / f"{name}.jsonl"), measure)
    return found


def _candidate(race: Race, arm: Arm, split: str, measure: Measure) -> Candidate:
    names = [race.run_name(arm, seed) for seed in race.seeds]
    found = Candidate(arm.name, arm.kind, {}, adapter_bytes(race.folder, names) or 0, few_shot=arm.few_shot)
    for seed, name in zip(race.seeds, names, strict=True):
        _add(found, seed, standings.read(RunDir(race.folder / name).evaluation(split) / "predictions.jsonl"), measure)
        found.seconds += race.state["legs"].get(name, {}).get("train_seconds", 0.0)
    if arm.kind == "control":
        found.bytes = 0
    return found


def _add(candidate: Candidate, seed: int, records: list[dict[str, Any]], measure: Measure) -> None:
    scores = standings.score_rows(records, measure) if records else []
    candidate.scores |= {(seed, str(r["where"])): s for r, s in zip(records, scores, strict=True)}


def _decided(race: Race, alive: Sequence[Arm], measure: Measure | None) -> dict[str, Any]:
    """Winner, sentence and intervals. The validation rows choose the best; the test rows, where there are any, say how
    sure that is.
    """
    if measure is None:
        return _by_number(race, alive)
    arms_ = [*race.entrants, *[arm for arm in race.controls if arm.name != controls.SHUFFLED]]

    def everyone(split: str) -> list[Candidate]:
        found = [_candidate(race, arm, split, measure) for arm in arms_]
        answered = {key for candidate in found for key in candidate.scores}
        for name in _baselines(race):
            guess = _baseline(race, name, split, measure)
            if answered:  # models that write may have answered some of the rows; guesses all of them
                guess.scores = {key: score for key, score in guess.scores.items() if key in answered}
            found.append(guess)
        found = [candidate for candidate in found if candidate.scores]
        most = max((len(c.scores) for c in found if c.kind == "method"), default=0)
        # of few rows: those with fewer seeds than the finalists have been left behind
        return [c for c in found if len(c.scores) >= most or c.kind != "method" or split == "test"]

    sign = 1 if measure.higher_is_better else -1
    held, tested = everyone("validation"), everyone("test")
    if not any(candidate.kind == "method" for candidate in held) and (done := _completed(race, alive)):
        return _by_number(race, done)  # they answered no row (eval.generate_rows=0)
    split = "test" if any(candidate.kind == "method" for candidate in tested) else "validation"
    on = tested if split == "test" else held
    names = {candidate.name for candidate in on}
    best_held = max((c for c in held if c.name in names), key=lambda c: sign * c.mean, default=None)
    best = next((c for c in on if best_held and c.name == best_held.name), None)
    pairs = [standings.compare(best, c, sign > 0) for c in on if best and c is not best]
    differences = [difference for difference in pairs if difference]
    count = len({where for candidate in on for _, where in candidate.scores})
    rows = verdict.Rows(split, count, measure)
    said = verdict.decide(on, best, differences, rows, race.ground.language, race.ground.base.name, race.ground.few)
    means = {c.name: c.mean for c in on}
    return said.as_dict() | {
        "decided_on": {"split": split, "rows": count, "measure": measure.name, "means": means},
        "differences": [difference.as_dict() for difference in differences],
    }


def _completed(race: Race, alive: Sequence[Arm]) -> list[Arm]:
    names = {arm.name: [track.manifest(race.folder / race.run_name(arm, seed)) for seed in race.seeds] for arm in alive}
    return [arm for arm in alive if any(m.get("status") == "completed" for m in names[arm.name])]


def _by_number(race: Race, alive: Sequence[Arm]) -> dict[str, Any]:
    """A task that predicts nothing has one number, and no rows to compare."""
    best = next((arm for arm in alive if race.score(arm, race.seeds) is not None), None)
    sentence = verdict.NOBODY
    if best:
        value = race.score(best, race.seeds) or 0.0
        sentence = f"Take {best.name}: {race.metric} {value:.4f} on the validation rows, the best; one training each."
    name = best.name if best else None
    return {"winner": name, "best": name, "tied": [], "recommendation": sentence, "differences": [], "decided_on": None}


# ------------------------------------------------------------------------------------------- to go on with


def _recommend(race: Race, winner: str | None, plan: Plan) -> None:
    """The winner's settings as a configuration of its own, for all rows and seeds to come."""
    arm = next((arm for arm in race.entrants if arm.name == winner), None)
    if arm is None:
        return
    run = next(
        (
            race.folder / race.run_name(arm, s)
            for s in race.seeds
            if track.manifest(race.folder / race.run_name(arm, s))
        ),
        None,
    )
    if run is None:
        return
    values, theirs = race.config.dump(), RunDir(run).config().dump()
    values |= {section: theirs[section] for section in ("task", "method")}
    values["train"]["lr"] = theirs["train"]["lr"]
    if race.ground.few:
        values["train"] |= {"max_steps": plan.steps, "patience": None, "keep": "last"}
    values["run"]["name"] = None
    text = f"# the winner of {race.folder.name}: {arm.name}\n"
    write_text(race.folder / RECOMMENDED, text + configuration.dump(configuration.build(values)))
