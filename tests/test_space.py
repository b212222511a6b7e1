"""What a search may try: read from a file or the command line, checked on the strict configuration, given to Optuna."""

from __future__ import annotations

from typing import Any

import pytest

from tunery import config, registry
from tunery.decide import ranges
from tunery.decide import space as spaces
from tunery.decide.sampling import Fresh
from tunery.decide.settings import check, configured, effective, identity
from tunery.decide.space import Choice, Range
from tunery.errors import ConfigError

BASE = config.load(values={"task": "instruct", "method": {"name": "lora", "alpha": 16}}).dump()


def test_ranges_and_lists_nested_or_not() -> None:
    found = spaces.parse(
        {
            "train": {"lr": {"log": [1e-5, 1e-3]}, "epochs": {"range": [1, 4]}},
            "train.warmup": {"range": [0.0, 0.2], "step": 0.1},
            "method.r": [4, 8],
            "method": ["lora", "ia3"],
        }
    )
    assert found["train.lr"] == Range(1e-5, 1e-3, log=True)
    assert found["train.epochs"].samples == [1, 2, 4]
    assert found["train.warmup"].values == [0.0, 0.1, 0.2]  # type: ignore[union-attr]
    assert found["method.r"] == Choice((4, 8))
    assert found["method.name"] == Choice(("lora", "ia3"))
    assert spaces.parse(spaces.written(found)) == found


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (3, "a range or a list is needed, not 3"),
        ([], "nothing to try"),
        ([4, 4], "stands twice"),
        ({"log": [0, 1]}, "begins above zero"),
        ({"log": [1e-3, 1e-5]}, "below the highest"),
        ({"log": [1e-5]}, "two numbers"),
        ({"log": ["a", "b"]}, "two numbers"),
        ({"log": [1, 9], "step": 2}, "even range"),
        ({"range": [1, 9], "log": [1, 9]}, "one of log and range"),
        ({"lg": [1, 2]}, "did you mean 'log'"),
    ],
)
def test_what_is_no_range_is_said(written: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        spaces.parse({"train.lr": written})
    assert raised.value.where == "train.lr"


@pytest.mark.parametrize(
    ("key", "written", "words"),
    [
        ("train.lrr", [1e-4, 1e-3], "did you mean 'train.lr'"),
        ("lr", [1e-4, 1e-3], "did you mean 'train.lr'"),
        ("train.lr", [1e-4, "fast"], "a number"),
        ("train.lr", {"range": [-1.0, 1.0]}, "greater than 0"),
        ("method.r", {"range": [0, 8]}, "greater than or equal to 1"),
        ("method.r", {"log": [1.5, 8.0]}, "whole number"),
        ("method.tokens", [8, 20], "it is a key of method=p_tuning and method=prompt"),
        ("method.name", ["lora", "lorra"], "lora"),
        ("eval.every", [10, 20], "same rows"),
        ("data.validation", ["a.csv", "b.csv"], "same rows"),
        ("run.name", ["a", "b"], "same rows"),
        ("train.seed", [1, 2], "luckiest"),
        ("task.name", ["lm", "instruct"], "different tasks"),
    ],
)
def test_keys_and_values_are_checked_before_anything_trains(key: str, written: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check(spaces.parse({key: written}), BASE)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        check(spaces.parse({"train.lrr": [1, 2], "method.rank": [4, 8], "train.epochs": [1, 2]}), BASE)
    assert "train.lrr" in str(raised.value) and "'method.r'" in str(raised.value)
    assert "epochs" not in str(raised.value)


def test_a_key_of_one_of_several_methods_is_left_out_for_the_others() -> None:
    found = spaces.parse({"method": ["lora", "prompt"], "method.r": [4, 8], "train.lr": [1e-3, 1e-2]})
    check(found, BASE)
    settings = {"method.name": "prompt", "method.r": 4, "train.lr": 1e-2}
    assert effective(BASE, settings) == {"method.name": "prompt", "train.lr": 1e-2}
    made = configured(BASE, settings)
    assert (made.method_name, made.train.lr) == ("prompt", 1e-2)
    assert identity(BASE, settings) == identity(BASE, {**settings, "method.r": 8}), "r makes no difference to prompt"
    assert configured(BASE, {"method.r": 4}).method.alpha == 16, "what is not searched stays"  # type: ignore[attr-defined]


def test_settings_survive_optunas_plain_values() -> None:
    found = spaces.parse({"method.targets": ["all-linear", ["q_proj", "v_proj"]], "method.alpha": [None, 8]})
    check(found, BASE)
    settings = {"method.targets": ["q_proj", "v_proj"], "method.alpha": None}
    assert spaces.settings_of(found, spaces.params_of(settings)) == settings


def test_the_nearest_value_inside() -> None:
    assert Range(1e-5, 1e-3, log=True).nearest(1.0) == 1e-3
    assert Range(1, 9, step=4).nearest(4) == 5
    assert Choice((4, 8, 64)).nearest(20) == 8
    assert Choice(("a", "b")).nearest(3) is None
    assert Choice((0, 1)).nearest(True) is None, "true is no number"


def test_options_are_yaml() -> None:
    assert spaces.parse_options(["train.lr={log: [1e-5, 1e-3]}", "method.r=[4, 8]"]) == {
        "train.lr": {"log": [1e-5, 1e-3]},
        "method.r": [4, 8],
    }
    with pytest.raises(ConfigError, match="no range"):
        spaces.parse_options(["train.lr"])


# ------------------------------------------------------------------------------------------- sensible ranges


@pytest.mark.parametrize("method", registry.names("method"))
@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_every_method_has_ranges_that_its_configuration_takes(method: str, family: str) -> None:
    made = config.load(values={"task": "classify", "method": method})
    default = registry.get("method", method)(made.method).default_lr(20_000_000, family)
    for rows in (100, 1000, 100_000):
        space, notes = ranges.sensible(made, default, rows, 6, family)
        check(space, made.dump())
        assert space["train.lr"].nearest(default) == pytest.approx(default)
        assert not notes
        longest = space["train.epochs"].samples[-1]
    assert longest <= 20


def test_the_table_names_methods_that_exist() -> None:
    assert set(ranges.SENSIBLE) <= set(registry.names("method"))


def test_what_the_user_set_is_not_searched() -> None:
    made = config.load(values={"task": "classify", "method": {"name": "lora", "r": 3}, "train": {"lr": None}})
    space, notes = ranges.sensible(made, 5e-4, 1000, 6, "encoder")
    assert "method.r" not in space and "train.lr" in space
    assert notes == ["method.r=3 is set, so it is not searched (--space method.r=… would)"]


def test_a_model_has_no_more_layers_than_it_has() -> None:
    made = config.load(values={"task": "classify", "method": "freeze"})
    assert ranges.sensible(made, 1e-4, 1000, 2, "encoder")[0]["method.layers"] == Choice((1, 2))


# ------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("kind", ["tpe", "random", "grid"])
def test_no_settings_come_twice_and_all_come_in_the_end(kind: str) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = spaces.parse({"method.r": [2, 4, 8], "train.epochs": {"range": [1, 4]}})
    sampler = Fresh(kind, space, lambda settings: identity(BASE, settings), seed=3, startup=3)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    seen = []
    while sampler.untried(study):
        trial = study.ask(sampler.distributions)
        seen.append(tuple(spaces.settings_of(space, trial.params).values()))
        study.tell(trial, -abs(seen[-1][0] - 4) - abs(seen[-1][1] - 2))
    assert len(seen) == len(set(seen)) == 12
    if kind == "grid":
        assert seen == [(r, epochs) for r in (2, 4, 8) for epochs in (1, 2, 3, 4)]


def test_the_same_seed_gives_the_same_settings() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = spaces.parse({"train.lr": {"log": [1e-5, 1e-2]}})

    def drawn(seed: int) -> list[Any]:
        sampler = Fresh("tpe", space, lambda settings: identity(BASE, settings), seed, startup=2)
        study = optuna.create_study(sampler=sampler)
        found = []
        for _ in range(5):
            trial = study.ask(sampler.distributions)
            found.append(trial.params["train.lr"])
            study.tell(trial, trial.params["train.lr"])
        return found

    assert drawn(1) == drawn(1) != drawn(2)
