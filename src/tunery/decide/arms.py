"""Who takes part in a race, and the configuration with which each is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunery import config as configuration
from tunery import registry
from tunery.config import Config
from tunery.errors import ConfigError
from tunery.protocols import Task

Kind = Literal["method", "control"]
CLOZE = "cloze"
ORDER = ("lora", "full", "adapter", CLOZE, "ia3", "prefix", "freeze", "bitfit", "p_tuning", "prompt")
"""Entrants; where time is short, the last are left out first."""
FEW_ORDER = (CLOZE, "prompt", "lora", "full", "adapter", "p_tuning", "ia3", "prefix", "freeze", "bitfit")
"""The same where rows are few: what uses the words that the model knows comes first."""
SOFT = ("prompt", "p_tuning")
"""Methods that steer the head of a language model; with a new head they have nothing to steer."""
FEW_SHOT = (CLOZE, *SOFT)
"""Entrants made for few rows."""
VARIANTS = {"lora": 3.0, "full": 3.0, "adapter": 3.0}
"""Methods that get a second learning rate where time allows, in multiples of their default."""
FEW_VARIANTS = {CLOZE: 0.25}
MOST_LABELS = 20
"""Labels up to which a cloze is tried: each of them costs a pass."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An entrant. ``changes``: sections of the configuration that replace those of the user."""

    name: str
    kind: Kind = "method"
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    few_shot: bool = False
    factor: float = 1.0
    """Of the method's default learning rate."""
    steps: int | None = None
    """Of its own; None: as many as all."""
    seeded: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Changes for one seed, on top of the others."""

    def changed(self, seed: int) -> dict[str, dict[str, Any]]:
        return {**self.changes, **self.seeded.get(seed, {})}


@dataclass(frozen=True, slots=True)
class Left:
    """Who does not take part, and why."""

    name: str
    reason: str


def entrants(
    config: Config, task: Task, base: Any, names: Sequence[str] | None, few: bool
) -> tuple[list[Arm], list[Left]]:
    """All that can take part, most promising first, and those that cannot.

    Args:
        config: with its task resolved.
        task: fitted to the training rows.
        names: those that the user wants; None: all.

    Raises ConfigError: an unknown name.
    """
    for name in names or ():
        if name != CLOZE and name not in registry.names("method"):
            known = [*registry.names("method"), CLOZE]
            raise ConfigError(f"unknown method {name!r}", registry.near(name, known), "--methods")
    wanted = list(dict.fromkeys(names)) if names else list(FEW_ORDER if few else ORDER)
    reason = no_cloze(config, task, base)
    found: list[Arm] = []
    left: list[Left] = []
    for name in wanted:
        if name == CLOZE and reason:
            left.append(Left(CLOZE, reason))
        else:
            found.append(_arm(config, name, cloze=not reason, family=base.family))
    variants = FEW_VARIANTS if few else VARIANTS
    doubled = [replaced(arm, variants[arm.name]) for arm in found if arm.name in variants]
    return [*found, *doubled], left


def _arm(config: Config, name: str, cloze: bool, family: str) -> Arm:
    changes: dict[str, dict[str, Any]] = {}
    method = name
    if name == CLOZE:  # frozen decoders need little; encoders are trained whole, as in the papers
        method = "lora" if family == "decoder" else "full"
    if cloze and (name == CLOZE or name in SOFT):
        changes["task"] = {"name": CLOZE}
    own = name == config.method_name
    changes["method"] = config.method.model_dump(mode="json") if own else {"name": method}
    changes["train"] = {} if own else {"lr": None}
    return Arm(name, changes=changes, few_shot=name in FEW_SHOT and (cloze or config.task_name == CLOZE))


def replaced(arm: Arm, factor: float) -> Arm:
    """The same with another learning rate."""
    return Arm(f"{arm.name}-lr-x{factor:g}", arm.kind, arm.changes, arm.few_shot, factor)


def no_cloze(config: Config, task: Task, base: Any) -> str:
    """Why there is no cloze for these rows and this base; empty if there is one."""
    if config.task_name == CLOZE:
        return "all entrants are trained on the task cloze"
    labels = tuple(getattr(task, "labels", ()))
    if config.task_name != "classify" or not labels or getattr(task, "multi", False):
        return "needs rows with one label each"
    if len(labels) > MOST_LABELS:
        return f"{len(labels)} labels; a cloze is tried with up to {MOST_LABELS}"
    if not all(any(character.isalpha() for character in label) for label in labels):
        return "the labels are no words; name them with data.labels={0: negative, 1: positive}"
    refused = registry.get("task", CLOZE)(registry.config_class("task", CLOZE)()).refuses(base)
    return refused.partition(";")[0] if refused else ""


def configured(
    config: Config, arm: Arm, seed: int, folder: str, name: str, steps: int, every: int, few: bool
) -> Config:
    """The configuration of one training. Raises ConfigError if an entrant's keys do not fit."""
    values, changes = config.dump(), arm.changed(seed)
    for section, new in changes.items():
        values[section] = new if section in ("task", "method") else {**values[section], **new}
    total = steps if arm.steps is None else arm.steps
    values["train"] |= {"max_steps": total, "seed": seed, "patience": None, "trackers": []}
    # what is paused writes a checkpoint anyway; of few rows too few are held out to choose weights by
    values["train"] |= {"checkpoint_every": total + 1, "keep": "last" if few else "best"}
    values["eval"] |= {"every": max(every, 1), "baselines": False, "base": False, "test": False}
    values["run"] = {"dir": folder, "name": name}
    return configuration.build(values)


def learning_rate(config: Config, arm: Arm, base: Any) -> float:
    """Of a configured entrant: the user's, or the method's default; times its factor."""
    method = registry.get("method", config.method_name)(config.method)
    return arm.factor * (config.train.lr or method.default_lr(base.parameters(), base.family))
