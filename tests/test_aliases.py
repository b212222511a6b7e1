"""``tunery promote``: names of what is served, taken back by --rollback, and read by every verb."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import verbs
from small import labelled, one_thread, train, write  # noqa: F401
from tunery.errors import ConfigError, ModelError, TuneryError
from tunery.run import aliases
from tunery.rundir import SCHEMA_VERSION


def run(folder: Path, name: str, status: str = "completed") -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "status": status}))
    return path


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose ``runs`` has the finished runs a, b and c."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        run(Path("runs"), name)
    return Path("runs")


def test_promote_and_roll_back(runs: Path) -> None:
    for name in "abc":
        assert aliases.promote(runs / name, "support")["changed"]
    assert aliases.read(runs) == {"support": runs / "c"} and aliases.resolve("support") == runs / "c"
    assert aliases.rollback("support")["run"] == str(runs / "b")
    assert aliases.rollback("support")["run"] == str(runs / "a")
    with pytest.raises(ModelError, match="no run before"):
        aliases.rollback("support")
    assert aliases.promote(runs / "c", "support")["previous"] == [str(runs / "a")]
    (found,) = aliases.listed()
    assert [(event["action"], event["run"]) for event in found["history"]] == [
        ("promote", "a"), ("promote", "b"), ("promote", "c"), ("rollback", "b"), ("rollback", "a"), ("promote", "c"),
    ]  # fmt: skip


def test_promoting_what_is_promoted_changes_nothing(runs: Path) -> None:
    aliases.promote(runs / "a", "support")
    before = (runs / aliases.FILE).read_bytes()
    assert aliases.promote("support", "support")["changed"] is False
    assert (runs / aliases.FILE).read_bytes() == before


def test_the_folder_can_be_moved_and_runs_elsewhere_are_found(runs: Path, tmp_path: Path) -> None:
    elsewhere = run(tmp_path / "other", "d")
    aliases.promote(runs / "a", "near")
    aliases.promote(elsewhere, "far")
    runs.rename("moved")
    assert aliases.read(Path("moved")) == {"near": Path("moved/a"), "far": elsewhere}


@pytest.mark.parametrize("alias", ["../x", "a/b", "", ".", "..", ".hidden", "-x", "x" * 65, "support\n", "名字", "a b"])
def test_a_name_is_no_path(runs: Path, alias: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an alias"):
        aliases.promote(runs / "a", alias)
    assert sorted(path.name for path in runs.iterdir()) == ["a", "b", "c"]


def test_refusals(runs: Path) -> None:
    with pytest.raises(ConfigError, match="name of a run"):
        aliases.promote(runs / "a", "b")
    for status in ("running", "failed", "interrupted"):
        with pytest.raises(ModelError, match="only a finished run"):
            aliases.promote(run(runs, status, status), "support")
    with pytest.raises(ModelError, match="no such run"):
        aliases.promote(runs / "nothing", "support")
    with pytest.raises(ConfigError, match="no alias"):
        aliases.rollback("support")
    assert not (runs / aliases.FILE).exists()


def test_a_promoted_run_that_is_gone(runs: Path) -> None:
    aliases.promote(runs / "a", "support")
    aliases.promote(runs / "b", "support")
    shutil.rmtree(runs / "b")
    with pytest.raises(ModelError, match="the run of alias support is gone"):
        aliases.resolve("support")
    assert [entry["gone"] for entry in aliases.listed()] == [True]
    assert aliases.rollback("support")["run"] == str(runs / "a")
    aliases.promote(runs / "c", "support")
    shutil.rmtree(runs / "a")
    with pytest.raises(ModelError, match="the run before this one is gone"):
        aliases.rollback("support")
    assert aliases.resolve("support") == runs / "c"


def test_paths_come_before_aliases_and_near_names_are_told(runs: Path) -> None:
    aliases.promote(runs / "a", "support")
    assert aliases.resolve(runs / "b") == runs / "b"
    assert aliases.resolve("runs") == Path("runs")
    with pytest.raises(ModelError, match=r"did you mean 'support'") as caught:
        aliases.resolve("suport")
    assert caught.value.where == "suport"
    run(Path(), "support")
    assert aliases.resolve("support") == Path("support")


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"schema_version": 9, "aliases": {}}', '{"schema_version": 1}',
        '{"schema_version": 1, "aliases": {"support": "a"}}',
        '{"schema_version": 1, "aliases": {"support": {"run": "a", "since": "", "previous": [1], "history": []}}}',
    ],
)  # fmt: skip
def test_a_damaged_file(runs: Path, text: str) -> None:
    (runs / aliases.FILE).write_text(text)
    for use in (lambda: aliases.resolve("support"), lambda: aliases.promote(runs / "a", "support")):
        with pytest.raises(ModelError) as caught:
            use()
        assert caught.value.where == str(runs / aliases.FILE)
    assert (runs / aliases.FILE).read_text() == text


def test_promoting_at_the_same_time_loses_nothing(runs: Path) -> None:
    names = [f"name{i}" for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: aliases.promote(runs / "a", name), names))
    assert set(aliases.read(runs)) == set(names)


def test_a_place_that_cannot_be_written(runs: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(TuneryError) as caught:
        aliases.promote(runs / "a", "support", Path("file/runs"))
    assert caught.value.code == 5


def test_the_verb(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.call(capsys, "promote", "--json").value == []
    assert "no aliases yet" in verbs.call(capsys, "promote").out
    assert verbs.call(capsys, "promote", "runs/a", "--as", "support").out == "support is now runs/a\n"
    assert "before: runs/a" in verbs.call(capsys, "promote", "runs/b", "--as", "support").out
    assert "already" in verbs.call(capsys, "promote", "runs/b", "--as", "support").out
    assert "runs/b" in verbs.call(capsys, "promote").out
    for words in (["--as", "support", "--rollback"], ["support", "--rollback"]):
        found = verbs.call(capsys, "promote", *words, "--json").value
        assert (found["name"], found["run"], found["previous"]) == ("support", "runs/a", [])
        verbs.call(capsys, "promote", "runs/b", "--as", "support")
    for wrong in (["runs/a"], ["--rollback"], ["--as", "x"], ["runs/a", "--as", "x", "--rollback"]):
        answer = verbs.call(capsys, "promote", *wrong, "--json")
        assert answer.code == 2 and answer.error["problem"] and "Traceback" not in answer.err


@pytest.mark.usefixtures("one_thread")
def test_every_verb_that_takes_a_run_takes_an_alias(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "train.jsonl", labelled(12))
    made = train(Path("runs"), tiny_bert, data, train__max_steps=1, run__name="one", data__test=str(data))
    assert verbs.call(capsys, "promote", made.path, "--as", "mood").code == 0
    for args in (["predict", "mood", "--text", "great"], ["eval", "mood"], ["report", "mood"]):
        answer = verbs.call(capsys, *args)
        assert answer.code == 0, answer.err
    assert verbs.call(capsys, "eval", "moot", "--json").error["hint"] == "did you mean 'mood'?"
