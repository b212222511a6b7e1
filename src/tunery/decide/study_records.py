"""How the trials of a study stand, in words and numbers that are no longer Optuna's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState, create_trial

from tunery.decide.space import Space, settings_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEW = 8
"""Ended trials below which the importance of a key would be guessing."""


def record(trial: FrozenTrial, space: Space, alone: bool) -> dict[str, Any]:
    """A trial for ``search.json``. ``alone``: no other machine takes part, so that no place needs to be named."""
    words = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    notes = trial.user_attrs
    whole = trial.params.keys() >= space.keys()
    place = notes.get("owner", {}).get("place")
    return {
        "trial": trial.number,
        "status": words.get(trial.state, trial.state.name.lower()),
        "value": trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        "settings": settings_of(space, trial.params) if whole else {},
        "evaluations": len(trial.intermediate_values),
        "seconds": notes.get("seconds"),
        "run": notes.get("run"),
        "place": None if alone else place,
        "source": notes.get("source"),
        "attempts": notes.get("attempts", 0),
        "problem": notes.get("problem"),
    }


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of the differences between trials that each key explains (fANOVA, Hutter et al. 2014).

    Pruned trials count with their last number: without them, the key that ruins a training would seem to be of
    no importance.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    scored = [t for t in study.get_trials(deepcopy=False, states=ended) if t.value is not None]
    if len(scored) < FEW or len(scored[0].params) < 2 or len({trial.value for trial in scored}) < 2:
        return {}
    alike = optuna.create_study(direction=study.direction.name.lower())
    for trial in scored:
        alike.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=trial.value))
    found = get_param_importances(alike, evaluator=FanovaImportanceEvaluator(seed=0))
    return {key: round(float(share), 4) for key, share in found.items()}
