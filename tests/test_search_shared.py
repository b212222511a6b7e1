"""One study, several machines: a real PostgreSQL server, and worker processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fake_trials
from postgres import PASSWORD, server  # noqa: F401
from small import labelled, one_thread, write  # noqa: F401
from tunery import config
from tunery.decide import search as searching
from tunery.decide import storage as storages
from tunery.decide.search import Options
from tunery.errors import ConfigError, ResourceError
from tunery.rundir import read_json
from verbs import call

pytest.importorskip("optuna")
pytest.importorskip("psycopg")
TESTS = Path(__file__).parent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", labelled(40))


@contextmanager
def machine(url: str, name: str, folder: Path, model: Path, data: Path, trials: int, seconds: float) -> Iterator[Any]:
    """A process that searches with fake trials, in a folder of its own, as another machine would."""
    words = [url, name, str(folder), str(model), str(data), str(trials), str(seconds)]
    path = os.pathsep.join([str(TESTS), *sys.path])
    folder.mkdir()
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "fake_trials.py"), *words],
            stdout=subprocess.PIPE, stderr=err, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def ended(process: Any, folder: Path) -> dict[str, Any]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, (folder / "err").read_text()
    return dict(json.loads(out))


def test_two_machines_never_run_the_same_trial(server: str, tiny_bert: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    """20 settings in all, four workers in two processes: each is trained once, by one of them."""
    folders = [tmp_path / "a", tmp_path / "b"]
    with (
        machine(server, "both", folders[0], tiny_bert, data, 40, 0.05) as one,
        machine(server, "both", folders[1], tiny_bert, data, 40, 0.05) as two,
    ):
        found = [ended(one, folders[0]), ended(two, folders[1])]
    assert found[0]["trials"] == found[1]["trials"], "the same study"
    settings = [tuple(trial["settings"].values()) for trial in found[0]["trials"]]
    assert len(settings) == len(set(settings)) == 20, "every combination, none of them twice"
    runs = [path.parent.name for folder in folders for path in folder.glob("search/*/manifest.json")]
    assert sorted(runs) == [f"trial-{number:03d}" for number in range(20)], "no number is run on both"
    assert all(list(folder.glob("search/*/manifest.json")) for folder in folders), "both took part"
    assert found[0]["best"]["settings"] == found[1]["best"]["settings"] == {"train.lr": 1e-3, "method.r": 8}


def test_a_killed_machines_trials_are_taken_up_by_another(
    server: str,  # noqa: F811
    tiny_bert: Path,
    data: Path,
    tmp_path: Path,
) -> None:
    dead, alive = tmp_path / "dead", tmp_path / "alive"
    with machine(server, "killed", dead, tiny_bert, data, 4, 600.0) as victim:
        until = time.monotonic() + 300
        while len(list(dead.glob("search/trial-*/manifest.json"))) < 2:
            assert victim.poll() is None and time.monotonic() < until, (dead / "err").read_text()
            time.sleep(0.05)
        victim.send_signal(signal.SIGKILL)
    with machine(server, "killed", alive, tiny_bert, data, 4, 0.01) as other:
        found = ended(other, alive)
    assert [trial["status"] for trial in found["trials"]] == ["completed"] * 4
    assert [trial["attempts"] for trial in found["trials"]] == [2, 2, 1, 1]
    for number in (0, 1):
        before = config.load(dead / "search" / f"trial-{number:03d}" / "config.yaml")
        after = config.load(alive / "search" / f"trial-{number:03d}" / "config.yaml")
        assert (before.train.lr, before.method) == (after.train.lr, after.method), "the same number, the same settings"


def test_a_study_of_the_same_name_searches_the_same(
    server: str,  # noqa: F811
    tiny_bert: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And the password is neither in a file nor in what is printed."""
    fake_trials.install(monkeypatch.setattr)
    arguments = ["search", f"model={tiny_bert}", "task=classify", f"data.train={data}", f"run.dir={tmp_path}"]
    arguments += ["run.name=found", "--storage", server, "--trials", "2", "--space"]
    done = call(capsys, *arguments, "method.r=[2, 4]", "--study", "mine")
    assert done.code == 0, done.err
    again = call(capsys, "search", "--resume", tmp_path / "found", "--storage", server, "--json")
    assert again.code == 0, again.err
    other = call(capsys, *arguments, "method.r=[2, 8]", "--study", "mine", "--json")
    assert "has another space" in other.error["problem"] and other.error["where"] == "--study"
    assert not (tmp_path / "found-2").exists()
    record = read_json(tmp_path / "found" / "search.json")
    assert record["storage"].startswith("postgresql://tunery@")
    printed = "".join(answer.out + answer.err for answer in (done, again, other))
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert PASSWORD not in printed
    assert not any(PASSWORD.encode() in content for content in files)


def test_a_server_that_does_not_answer_is_one_line(
    tiny_bert: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://tunery:{PASSWORD}@/tunery?host={tmp_path}"
    result = call(
        capsys, "search", f"model={tiny_bert}", "task=classify", f"data.train={data}", "--storage", url, "--json"
    )
    assert result.error["code"] == 5 and "cannot be used" in result.error["problem"]
    assert PASSWORD not in result.out + result.err


def test_addresses() -> None:
    assert storages.postgresql("postgresql://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
    assert storages.shown(storages.postgresql("postgresql://u:p@h/d")) == "postgresql://u@h/d"
    assert "sesame" not in storages.shown("postgresql+psycopg://u@h/d?password=sesame")
    for wrong in ("mysql://u@h/d", "postgresql://u@h", "study.db", "://"):
        with pytest.raises(ConfigError, match="not the address"):
            storages.postgresql(wrong)
    with pytest.raises(ConfigError, match="--storage"):
        searching.search(config.load(values={"task": "classify"}), {}, Options(study="alone"))
    with pytest.raises(ResourceError):
        storages.open_storage("sqlite:////nowhere/at/all.db")
