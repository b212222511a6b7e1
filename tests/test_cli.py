"""The command line as a whole: all verbs, no torch before one runs, errors that scripts can read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import click
import pytest

import verbs
from tunery.cli import _app
from tunery.cli._app import tunery

VERBS = tunery.list_commands(click.Context(tunery))
LISTINGS = ("formats", "methods", "metrics", "models")
REQUIRED = ("init", "check", "show", "train", "resume", "eval", "predict", "chat", "runs", *LISTINGS)


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(REQUIRED) <= set(VERBS)
    answer = verbs.call(capsys, "--help")
    assert answer.code == 0
    listed = [line.split()[0] for line in answer.out.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == VERBS


def test_without_arguments_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys)
    assert answer.code == 2 and answer.out == ""
    assert answer.err.strip() == verbs.call(capsys, "--help").out.strip() and answer.err.count("\n") > len(VERBS)


def test_nothing_heavy_is_imported_before_a_verb_runs() -> None:
    """Neither for --help, nor for the help of any verb, nor for the listings of plug-ins."""
    calls = [["--help"], *([verb, "--help"] for verb in VERBS), *([verb] for verb in LISTINGS), ["methods", "lora"]]
    code = f"""
import contextlib, io, json, sys
from tunery.cli import main
for args in {calls!r}:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(args)
        except SystemExit as exited:
            assert not exited.code, args
    heavy = [name for name in ("torch", "transformers", "peft", "accelerate", "sklearn") if name in sys.modules]
    assert not heavy, (args, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, verb, "--help")
    assert answer.code == 0 and answer.err == ""
    usage, _, rest = answer.out.partition("Options:")
    assert "--json" in rest and len(usage.strip().splitlines()) >= 3
    command = tunery.get_command(click.Context(tunery), verb)
    assert command is not None
    for option in command.params:
        assert not isinstance(option, click.Option) or option.help, f"{verb} {option.name}"


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, "trian", "--json")
    assert answer.code == 2 and answer.error["hint"] == "did you mean 'train'?"
    assert answer.err.count("\n") == 1 and "trian" in answer.err


@pytest.mark.parametrize("verb", VERBS)
def test_usage_errors(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, verb, "--no-such-option", "--json")
    assert answer.code == 2 and "--no-such-option" in answer.error["problem"]
    assert verb in answer.error["hint"]
    quiet = verbs.call(capsys, verb, "--no-such-option")
    assert quiet.code == 2 and quiet.out == "" and quiet.err.count("\n") == 1


@pytest.mark.parametrize("verb", LISTINGS)
def test_listings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, verb, "--json")
    assert answer.code == 0 and all(item["name"] for item in answer.value)
    told = verbs.call(capsys, verb)
    assert all(item["name"] in told.out for item in answer.value)


@pytest.mark.parametrize("verb", ["predict", "chat"])
@pytest.mark.parametrize("penalty", ["0.009", "1e-40", "10.5"])
def test_repetition_penalties_that_are_none(verb: str, penalty: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--text", "x"] if verb == "predict" else []
    answer = verbs.call(capsys, verb, "nowhere", *more, "--repetition-penalty", penalty, "--json")
    assert answer.code == 2 and "--repetition-penalty" in answer.error["problem"] and penalty in answer.error["problem"]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_of_several_processes_the_first_speaks(
    more: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = verbs.call(capsys, "metrics", *more)
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        printed[rank] = verbs.call(capsys, "metrics", *more)
    assert printed["0"] == alone and alone.out
    assert printed["1"] == verbs.Answer(0, "", "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert verbs.call(capsys, "metrics", *more) == alone


def test_a_number_that_is_none_is_null_in_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    @_app.verb(print)
    def command() -> dict[str, Any]:
        return {"loss": math.nan, "scores": {"最好": [1.5, math.inf, (-math.inf, None)]}, "path": sys.path[:0]}

    monkeypatch.setattr(_app.Verbs, "list_commands", lambda self, ctx: ["broken"])
    monkeypatch.setattr(_app.Verbs, "get_command", lambda self, ctx, name: command)
    answer = verbs.call(capsys, "broken", "--json")
    found = json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"loss": None, "scores": {"最好": [1.5, None, [None, None]]}, "path": []}
    assert "最好" in answer.out


@pytest.mark.parametrize("verb", ["train", "check", "show"])
def test_verbs_that_take_a_config(
    verb: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert verbs.call(capsys, verb, "nothing.yaml", "--json").error["where"] == "nothing.yaml"
    assert verbs.call(capsys, verb, "a.yaml", "b.yaml", "--json").code == 2
    assert verbs.call(capsys, verb, "data.trian=x", "--json").error["hint"] == "did you mean 'data.train'?"
    assert verbs.call(capsys, verb, "--json").error["where"] == "data.train"
    missing = verbs.call(capsys, verb, "data.train=nothing.jsonl", "--json")
    assert missing.code == 3 and missing.error["where"] == "nothing.jsonl"


def test_defects_are_told_in_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tunery.models import packs

    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(packs, "listing", broken)
    answer = verbs.call(capsys, "models", "--json")
    assert answer.code == 1 and "a defect in tunery" in answer.error["problem"] and answer.err.count("\n") == 1
    assert json.dumps(answer.error)
