"""Which settings come next: grid, random or TPE, and never the same ones twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from tunery.decide.space import Settings, Space, combinations, distributions, params_of, settings_of

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "grid")
TRIES = 20
"""Draws of TPE that may have been tried before, until one of the untried is taken at random."""
_PRIME = 1_000_003


class Fresh(BaseSampler):  # type: ignore[misc]
    """Another sampler's draws, less those that have been tried.

    Everything follows from the seed, the number of the trial and the trials before it, so that a search that was
    interrupted goes on as it would have.

    Args:
        kind: one of SAMPLERS.
        identity: the same text for settings that make the same training.
        startup: trials drawn at random before TPE has something to learn from.
    """

    def __init__(self, kind: str, space: Space, identity: Callable[[Settings], str], seed: int, startup: int) -> None:
        self.kind, self.space, self.identity, self.seed, self.startup = kind, space, identity, seed, startup
        self.distributions = distributions(space)
        self.points = combinations(space)

    def untried(self, study: Study) -> list[Settings] | None:
        """All points that no trial has had; None: there is no end of them."""
        if self.points is None:
            return None
        tried = self._tried(study)
        return [point for point in self.points if self.identity(point) not in tried]

    def _tried(self, study: Study, but: int = -1) -> set[str]:
        trials = [
            t for t in study.get_trials(deepcopy=False) if t.number != but and t.params.keys() >= self.space.keys()
        ]
        return {self.identity(settings_of(self.space, trial.params)) for trial in trials}

    # ------------------------------------------------------------------------------ what Optuna calls

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        untried = self.untried(study)
        if self.kind == "grid" and untried:
            return params_of(untried[0])
        inner = self._inner(trial.number)
        tried = self._tried(study, trial.number)
        params: dict[str, Any] = {}
        for _ in range(TRIES):
            params = self._draw(inner, study, trial)
            if self.identity(settings_of(self.space, params)) not in tried:
                return params
        return params_of(self._random(trial.number).choice(untried)) if untried else params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner(trial.number).sample_independent(study, trial, param_name, param_distribution)

    # ---------------------------------------------------------------------------------------- helpers

    def _inner(self, number: int) -> BaseSampler:
        seed = self._random(number).randrange(1 << 31)
        if self.kind == "tpe":
            return TPESampler(
                seed=seed, n_startup_trials=self.startup, multivariate=True, constant_liar=True, n_ei_candidates=24
            )
        return RandomSampler(seed=seed)

    def _random(self, number: int) -> random.Random:
        return random.Random(self.seed * _PRIME + number)

    def _draw(self, inner: BaseSampler, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        several = {key: each for key, each in self.distributions.items() if not each.single()}
        found = inner.sample_relative(study, trial, several)
        for key, each in self.distributions.items():
            if key not in found:
                found[key] = inner.sample_independent(study, trial, key, each)
        return {key: found[key] for key in self.distributions}
