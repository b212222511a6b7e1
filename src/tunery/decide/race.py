"""Methods against each other on the same rows, within a budget of wall time (``tunery race``).

    survey → speeds of two entrants → plan → rungs: train, rank, leave out → test rows of the finalists → verdict

The folder has ``race.json`` with everything, and an ordinary run directory for each training. What a training has
reached stands in its own directory, so going on with an interrupted race is running it again: what is done is seen.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tunery import config as configuration
from tunery import scoring
from tunery.config import Config
from tunery.decide import arms, controls, finish, ground, pace, rungs, score, track
from tunery.decide.arms import Arm
from tunery.decide.rungs import Plan, Speed
from tunery.decide.track import Clock
from tunery.errors import ConfigError, ModelError, TuneryError
from tunery.run.manifest import absolute
from tunery.run.records import say
from tunery.rundir import RunDir, read_json, write_json

FILE = "race.json"
SCHEMA_VERSION = 1


class Race:
    """One race: its folder, its entrants, and how far they are."""

    def __init__(self, folder: Path, found: ground.Ground, state: dict[str, Any]) -> None:
        self.folder, self.ground, self.state = folder, found, state
        self.config = found.config
        self.clock = Clock(state["budget"], state["seconds"])
        self.cpus = track.shares(state["workers"], found.base.parameters(), found.base.device.type == "cpu")
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.seeds = [self.config.train.seed + i for i in range(4 if found.few else 1)]
        number = scoring.number_names()[found.task.monitor]
        self.metric, self.sign = number.name, 1 if number.higher_is_better else -1
        self.entrants: list[Arm] = []
        self.controls: list[Arm] = []

    # ------------------------------------------------------------------------------------------ the whole

    def run(self) -> None:
        """To the end, or until it is interrupted: then ``race.json`` says so, and it can be gone on with.

        Raises ModelError if another process is at it.
        """
        with RunDir(self.folder).lock():
            self._run()

    def _run(self) -> None:
        try:
            self.update(status="running")
            self._line_up()
            plan = self._plan()
            alive = self._rungs(plan)
            score.finalists(self, alive)
            finish.write(self, alive, plan)
        except BaseException as error:
            self.update(status="interrupted" if not isinstance(error, TuneryError) else "failed", problem=str(error))
            raise

    def update(self, **changes: Any) -> None:
        with self.lock:
            self.state |= changes
            self.state["seconds"] = round(self.clock.used, 1)
            write_json(self.folder / FILE, self.state)

    # -------------------------------------------------------------------------------------- who takes part

    def _line_up(self) -> None:
        found = self.ground
        names = self.state["methods"]
        self.entrants, left = arms.entrants(self.config, found.task, found.base, names, found.few)
        reason = arms.no_cloze(self.config, found.task, found.base)
        parts = {seed: ground.split_of(found, seed) for seed in self.seeds}
        trains = {seed: dataset.splits["train"] for seed, (dataset, _) in parts.items()}
        self.controls, not_applicable = controls.untrained(self.config, found.task, found.base, trains, reason)
        for seed, (dataset, task) in parts.items():
            if self.ground.task.kinds[0] != "loss" and not self._guessed(seed).is_dir():
                held = {split: rows for split, rows in dataset.splits.items() if split != "train"}
                controls.guesses(task, dataset.splits["train"], held, self._guessed(seed))
        self.state["controls"] = self.state.get("controls") or {"not_applicable": not_applicable}
        self.state.setdefault("left_out", [asdict(item) for item in left])
        leaks = controls.leaks(found.dataset.findings, self.config.data.on_leak)
        self.update(leaks=leaks, rows=found.rows(), few_rows=found.few, seeds=self.seeds)
        if found.language:
            self.update(language=found.language.as_dict())

    def _guessed(self, seed: int) -> Path:
        return self.folder / "baselines" / f"seed{seed}"

    # ---------------------------------------------------------------------------------------------- speeds

    def _plan(self) -> Plan:
        if known := self.state.get("plan"):
            plan = Plan(**{**known, "rungs": tuple(rungs.Rung(**rung) for rung in known["rungs"])})
            wanted = set(self.state["entrants"])
            self.entrants = [arm for arm in self.entrants if arm.name in wanted]
        else:
            plan = pace.plan(self, pace.probe(self))
        if self.ground.task.kinds[0] == "classes":
            self._shuffle(plan)
        return plan

    # ----------------------------------------------------------------------------------------------- rungs

    def _rungs(self, plan: Plan) -> list[Arm]:
        """→ those that reached the last rung, best first."""
        alive = self.entrants
        decided: list[dict[str, Any]] = self.state.setdefault("rungs", [])
        speed = Speed(**self.state["speed"])
        for number, rung in enumerate(plan.rungs):
            seeds = self.seeds[: rung.seeds]
            jobs = [(arm, seed, plan.until(number)) for arm in alive for seed in seeds]
            jobs += [
                (arm, seed, 0)
                for arm in self.controls
                for seed in seeds
                if (number == 0 or self.ground.few) and (arm.name != controls.SHUFFLED or seed == self.seeds[0])
            ]
            reserve = pace.scoring_time(self, speed)
            track.each(jobs, self.cpus, partial(self._train, plan=plan, reserve=reserve), self.stop)
            ranked = self.ranked(alive, seeds)
            if number < len(decided):
                alive = [arm for arm in ranked if arm.name in decided[number]["on"]]
                continue
            last = number == len(plan.rungs) - 1
            speeds = [self._speed_of(arm, speed) for arm in ranked]
            time = pace.SAFE * (self.clock.left - reserve)
            count = (
                len(ranked) if last else rungs.survivors(plan, number, speeds, time, len(self.cpus), self.ground.few)
            )
            alive = ranked[:count]
            scores = {arm.name: self.score(arm, seeds) for arm in ranked}
            decided.append({"until": plan.until(number), "scores": scores, "on": [arm.name for arm in alive]})
            self.update()
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            say(f"rung {number + 1} of {len(plan.rungs)}, {self.metric}: {shown}")
        return alive

    def _train(self, job: tuple[Arm, int, int], cpus: list[int], plan: Plan, reserve: float) -> None:
        """``job``: an entrant, a seed, and the step until which it is trained."""
        arm, seed, until = job
        name = self.run_name(arm, seed)
        legs: dict[str, Any] = self.state.setdefault("legs", {})
        before = legs.get(name, {})
        found = track.manifest(self.folder / name)
        reached = max((step for step, _ in track.history(self.folder / name)), default=0)
        done = found.get("status") == "completed" or (found.get("status") == "paused" and reached >= until)
        if done or before.get("status") == "failed":
            return
        left = self.clock.left - reserve
        if left < 1:
            self._note(name, {**before, "status": before.get("status", "no time"), "problem": "no time left"})
            return
        config = self.configured(arm, seed, name, plan.steps, plan.every)
        if config is None:
            return
        until = until if arm.steps is None else arm.steps
        speed = Speed(**self.state["speed"])
        leg = track.advance(config, until, cpus, self.log(name), left, self.stop, before, speed)
        self._note(name, leg)

    def _note(self, name: str, leg: dict[str, Any]) -> None:
        with self.lock:
            self.state.setdefault("legs", {})[name] = leg
        self.update()
        if leg["problem"]:
            say(f"{name}: {leg['problem']}")

    def configured(self, arm: Arm, seed: int, name: str, steps: int, every: int) -> Config | None:
        """None where its keys do not fit: then it has failed."""
        try:
            config = arms.configured(self.config, arm, seed, str(self.folder), name, steps, every, self.ground.few)
            lr = arms.learning_rate(config, arm, self.ground.base)
            return config.model_copy(update={"train": config.train.model_copy(update={"lr": lr})})
        except ConfigError as error:
            self._note(name, {"run": name, "status": "failed", "problem": str(error)})
            return None

    def log(self, name: str) -> Path:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self.folder / "logs" / f"{name}.txt"

    def _shuffle(self, plan: Plan) -> None:
        splits, seed = self.ground.dataset.splits, self.config.train.seed
        folder = self.folder / "data"
        method = next((arm for arm in self.entrants if not arm.few_shot), self.entrants[0])
        self.controls.append(
            controls.shuffled(self.config, splits["train"], splits["validation"], folder, method, plan.until(0))
        )
        parts = controls.drawn({split: splits[split] for split in ("train", "validation")}, seed)
        right, rows = controls.by_heart(self.ground.task, parts)
        labels = [label for _, label in parts["validation"]]
        self.state["controls"]["by_heart"] = controls.learnt(right, rows, labels)
        self.update()

    # ---------------------------------------------------------------------------------------------- scores

    def run_name(self, arm: Arm, seed: int) -> str:
        return f"{arm.name}-seed{seed}"

    def score(self, arm: Arm, seeds: Sequence[int]) -> float | None:
        """Mean over seeds of the best number so far on the validation rows; None: it has none."""
        found = [value for seed in seeds if (value := self._score(self.run_name(arm, seed))) is not None]
        return fmean(found) if found else None

    def _score(self, name: str) -> float | None:
        manifest = track.manifest(self.folder / name)
        if manifest.get("status") == "completed":
            return float(manifest["metrics"][self.metric]) if self.metric in manifest["metrics"] else None
        values = [numbers[self.metric] for _, numbers in track.history(self.folder / name) if self.metric in numbers]
        return self.sign * max(self.sign * value for value in values) if values else None

    def ranked(self, entrants: Sequence[Arm], seeds: Sequence[int]) -> list[Arm]:
        """Best first, without those that have no score: they failed, or had no time."""
        scores = {arm.name: self.score(arm, seeds) for arm in entrants}
        scored = [arm for arm in entrants if scores[arm.name] is not None]
        return sorted(scored, key=lambda arm: -self.sign * (scores[arm.name] or 0.0))

    def _speed_of(self, arm: Arm, known: Speed) -> Speed:
        legs = (self.state["legs"].get(self.run_name(arm, seed), {}).get("speed") for seed in self.seeds)
        found = next((leg for leg in legs if leg), None)
        return Speed(**found) if found else known


# ------------------------------------------------------------------------------------------------ from outside


def race(config: Config, budget: float, methods: Sequence[str] | None = None, workers: int | None = None) -> Path:
    """A new race → its folder.

    Args:
        budget: seconds of wall time for everything.
        methods: entrants; None: all.
        workers: trainings at a time; None: as many as CPUs and memory allow.

    Raises TuneryError as a training does, before anything is written.
    """
    clock = Clock(budget)
    config = absolute(config)  # rows are named alike in all runs
    found = ground.survey(config)
    arms.entrants(found.config, found.task, found.base, methods, found.few)
    model = Path(config.model.name).stem.lower().replace(":", "-")
    name = config.run.name or f"{datetime.now():%Y%m%d-%H%M%S}-race-{model}-{found.config.task_name}"
    folder = RunDir.create(Path(config.run.dir), name).path.absolute()
    state = {
        "schema_version": SCHEMA_VERSION,
        "status": "running",
        "budget": budget,
        "seconds": clock.used,
        "methods": list(methods) if methods else None,
        "workers": workers,
        "base": found.base.name,
        "config": found.config.dump(),
        "data": found.dataset.hashes,
    }
    Race(folder, found, state).run()
    return folder


def resume(folder: str | Path, budget: float | None = None, workers: int | None = None) -> Path:
    """Go on with an interrupted race. ``budget``: more time, for what is left of it.

    Raises ModelError: no race, a finished one, or its time is up; ConfigError: the data has changed.
    """
    path = Path(folder).absolute()
    state = load(path)
    if state["status"] == "completed":
        raise ModelError("this race is finished", "tunery race makes a new one", str(folder))
    if budget:
        state["budget"] = state["seconds"] + budget
    if state["budget"] - state["seconds"] < 1:
        raise ModelError("its time is up", "give it more: tunery race --resume FOLDER --budget 5m", str(folder))
    found = ground.survey(configuration.build(state["config"]))
    if set(found.dataset.hashes.values()) != set(state["data"].values()):
        raise ConfigError("the data has changed since the race began", "tunery race makes a new one", str(folder))
    state["workers"] = workers or state["workers"]
    Race(path, found, state).run()
    return path


def is_folder(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def load(folder: Path) -> dict[str, Any]:
    """What is in ``race.json``. Raises ModelError if it is not a race's folder."""
    if not is_folder(folder):
        raise ModelError("not a race (no race.json)", "name the folder that tunery race made", str(folder))
    state = dict(read_json(folder / FILE))
    if state.get("schema_version") != SCHEMA_VERSION:
        raise ModelError("a race of another version of tunery", "use that version", str(folder))
    return state
