"""The study behind a search: numbered trials in a database that several workers, on several machines, may share.

What the workers rely on: a number is given to one of them only, settings that were tried are not tried again, and a
trial whose worker died is taken up by another one, under its own number. All three are decided under one lock.

A worker shows that it lives by changing its trial's ``beat``. Others watch the beat by their own clocks, so clocks
need not agree. Trials of this very folder without a living worker are known to be dead: the folder is locked.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import TrialState, create_trial

from tunery.decide import storage as storages
from tunery.decide import study_records
from tunery.decide.sampling import Fresh
from tunery.decide.settings import Plain, identity
from tunery.decide.space import Settings, Space, params_of, settings_of, written
from tunery.errors import ConfigError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

PRUNERS = ("median", "halving", "none")
ATTEMPTS = 3
"""Workers that may die of one trial with no evaluation in between: then it is the trial's fault."""
_ABOUT = "tunery"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the trials are chosen, and when it is enough."""

    trials: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Job:
    """A trial to train. ``run``: the name of the run that another worker began in this folder."""

    number: int
    settings: Settings
    run: str | None = None


class Lost(Exception):
    """Another worker has taken the trial up: this one was thought dead."""


class Study:
    """One worker process's view of the study.

    Args:
        url: address of the database.
        name: the same name is the same study.
        about: what must be the same on all machines; compared when a study is joined.
        place: host and folder of this search; trials of it without a living worker are taken up at once.
        stale_after: seconds without a beat after which a worker elsewhere counts as dead.
    Raises ResourceError (database), ConfigError (a study of that name searches something else).
    """

    def __init__(
        self,
        url: str,
        name: str,
        plan: Plan,
        space: Space,
        base: Plain,
        about: Mapping[str, Any],
        place: str,
        stale_after: float,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.plan, self.space, self.place, self.stale_after = plan, space, place, stale_after
        self.identity = partial(identity, base)
        self.sampler = Fresh(plan.sampler, space, self.identity, plan.seed, min(10, max(3, plan.trials // 3)))
        self.storage = storages.open_storage(url)
        self.name, self.local = name, url.startswith("sqlite")
        self._session = uuid.uuid4().hex
        self._active: set[int] = set()
        self._beats: dict[int, tuple[Any, float]] = {}
        with self._alone():
            self.study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                sampler=self.sampler,
                pruner=_pruner(plan.pruner),
                direction="maximize" if plan.higher_is_better else "minimize",
                load_if_exists=True,
            )
            self.number = self.storage.get_study_id_from_name(name)
            self._join({**about, "space": written(space)})

    def _join(self, about: dict[str, Any]) -> None:
        known = self.study.user_attrs.get(_ABOUT)
        if known is None:
            self.study.set_user_attr(_ABOUT, about)
            return
        for key, value in about.items():
            if known.get(key) != value:
                problem = f"the study {self.name!r} has another {key}: {known.get(key)}, here {value}"
                raise ConfigError(problem, "give this one a name of its own with --study NAME", "--study")

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        return storages.locked(self.storage.engine, self.name)

    # ------------------------------------------------------------------------------------- taking trials

    def suggest(self, points: Sequence[tuple[Settings, str]]) -> int:
        """Settings to begin with, each with where it is from → how many of them are new. Once for each study."""
        count = 0
        with self._alone():
            if self.study.get_trials(deepcopy=False):
                return 0
            seen: set[str] = set()
            for settings, source in points:
                if self.identity(settings) in seen:
                    continue
                seen.add(self.identity(settings))
                params, distributions = params_of(settings), self.sampler.distributions
                self.study.add_trial(
                    create_trial(
                        state=TrialState.WAITING,
                        params=params,
                        distributions=distributions,
                        user_attrs={"source": source},
                    )
                )
                count += 1
        return count

    def take(self, closed: bool = False) -> Job | Literal["wait"] | None:
        """The next trial to train; "wait": others are at work on the last ones; None: it is done.

        With ``closed`` no new trial is begun, and those that a dead worker left are still taken up.
        """
        with self._alone():
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._is_abandoned(trial):
                    if job := self._take_up(trial):
                        return job
                    return "wait"
            begun = [trial for trial in trials if trial.state != TrialState.WAITING]
            waiting = len(begun) < len(trials)
            untried = self.sampler.untried(self.study)
            if closed or len(begun) >= self.plan.trials or (untried == [] and not waiting):
                return "wait" if any(trial.state == TrialState.RUNNING for trial in trials) else None
            trial = self.study.ask(self.sampler.distributions)
            self._own(trial.number, 1)
            return Job(trial.number, settings_of(self.space, trial.params))

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get("owner", {})
        if owner.get("session") == self._session:
            return trial.number not in self._active
        if self.local or owner.get("place") == self.place:
            return True
        beat = trial.user_attrs.get("beat")
        before = self._beats.setdefault(trial.number, (beat, time.monotonic()))
        if before[0] != beat:
            self._beats[trial.number] = before = (beat, time.monotonic())
        return time.monotonic() - before[1] >= self.stale_after

    def _take_up(self, trial: FrozenTrial) -> Job | None:
        owner, attempts = trial.user_attrs.get("owner", {}), trial.user_attrs.get("attempts", 0)
        deaths = trial.user_attrs.get("deaths", 0) + 1
        whole = trial.params.keys() >= self.space.keys()
        if not whole or deaths >= ATTEMPTS:
            problem = f"{deaths} workers died of it" if whole else "its worker died before it began"
            self._set(trial.number, problem=problem)
            self.study.tell(trial.number, state=TrialState.FAIL)
            return None
        self._own(trial.number, attempts + 1, deaths)
        here = self.local or owner.get("place") == self.place
        run = trial.user_attrs.get("run") if here else None
        return Job(trial.number, settings_of(self.space, trial.params), run)

    def _own(self, number: int, attempts: int, deaths: int = 0) -> None:
        self._active.add(number)
        owner = {"place": self.place, "session": self._session}
        self._set(number, owner=owner, attempts=attempts, deaths=deaths, beat=time.time())

    # --------------------------------------------------------------------------------------- while it runs

    @contextlib.contextmanager
    def beating(self, number: int) -> Iterator[None]:
        """Show that this worker lives, until the block ends."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.stale_after / 4):
                with contextlib.suppress(Exception):  # a server that is away for a moment: the next beat comes soon
                    self._set(number, beat=time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def report(self, number: int, evaluation: int, value: float) -> bool:
        """The monitored number at the trial's first, second, … evaluation → whether to prune. Raises Lost."""
        key = self._check(number)
        storages.patiently(lambda: self.storage.set_trial_intermediate_value(key, evaluation, value))
        self.note(number, deaths=0)
        return bool(storages.patiently(lambda: self.study.pruner.prune(self.study, self.storage.get_trial(key))))

    def finish(
        self, number: int, status: Literal["completed", "pruned", "failed"], value: float | None = None, **notes: Any
    ) -> None:
        """The trial's end. Raises Lost."""
        self._check(number)
        states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        storages.patiently(lambda: self._set(number, **notes))
        storages.patiently(lambda: self.study.tell(number, value, states[status], skip_if_finished=True))
        self._active.discard(number)

    def note(self, number: int, **notes: Any) -> None:
        storages.patiently(lambda: self._set(number, **notes))

    def release(self, number: int, died: bool) -> None:
        """Leave the trial to whoever takes it up. ``died``: its process was killed, and not because we stop."""
        self._active.discard(number)
        with contextlib.suppress(Exception):  # without a server the others will miss its beat
            if not died:
                self._set(number, deaths=-1)
            self._set(number, owner={"place": self.place, "session": ""})

    def _check(self, number: int) -> int:
        """→ the trial's key in the storage."""
        key = self._key(number)
        trial = storages.patiently(lambda: self.storage.get_trial(key))
        mine = trial.user_attrs.get("owner", {}).get("session") == self._session
        if trial.state != TrialState.RUNNING or not mine:
            self._active.discard(number)
            raise Lost
        return key

    def _key(self, number: int) -> int:
        return int(self.storage.get_trial_id_from_study_id_trial_number(self.number, number))

    def _set(self, number: int, **values: Any) -> None:
        key = self._key(number)
        for name, value in values.items():
            self.storage.set_trial_user_attr(key, name, value)

    # ------------------------------------------------------------------------------------------- results

    def results(self) -> list[dict[str, Any]]:
        """One record a trial, in the order of their numbers."""
        trials = storages.patiently(lambda: self.study.get_trials(deepcopy=False))
        return [study_records.record(trial, self.space, self.local) for trial in trials]

    def best(self) -> dict[str, Any] | None:
        """The record of the best completed trial; of equal ones the first."""
        sign = 1 if self.plan.higher_is_better else -1
        done = [record for record in self.results() if record["status"] == "completed"]
        return max(done, key=lambda record: sign * record["value"], default=None)

    def importance(self) -> dict[str, float]:
        return study_records.importance(self.study)


def _pruner(name: str) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_min_trials=3)
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    return optuna.pruners.NopPruner()
