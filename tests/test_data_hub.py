"""Datasets from a hub: a small server of our own in its place, each case in a process with HF_ENDPOINT set."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from test_hub import SHA, Hub, ModelScope, serving
from tunery.data import hubs
from tunery.data.read import read
from tunery.errors import DataError

FIRST_ROWS = """
import json, os, sys
from pathlib import Path
from tunery.data.read import read
from tunery.errors import TuneryError
records = read(sys.argv[1])
def seen():
    return sum(path.is_file() for path in Path(os.environ["HF_HOME"]).glob("hub/datasets--*/snapshots/*/data/*"))
found = [[seen(), None]]
try:
    for record in records:
        found.append([seen(), dict(record.values)])
except TuneryError as error:
    found.append([seen(), error.problem])
print(json.dumps(found))
"""
FIRST_MODELSCOPE = FIRST_ROWS.replace("HF_HOME", "MODELSCOPE_CACHE").replace("hub/datasets--*", "datasets/org--name")
PROBE = """
import json, sys, time
from tunery.data.read import read
from tunery.errors import TuneryError
for name in sys.argv[1:]:
    name, _, role = name.partition("=")
    since = time.monotonic()
    try:
        records = read(name, role=role or "train")
        rows = [[record.where, dict(record.values)] for record in records]
        print(json.dumps({"rows": rows, "notes": records.notes, "hashes": records.hashes()}), flush=True)
    except TuneryError as error:
        print(json.dumps({**error.as_dict(), "seconds": time.monotonic() - since}), flush=True)
"""


class Datasets(Hub):
    """The same questions about datasets."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self.answer(200, b"")
        elif path.startswith("/api/datasets/"):
            self.asked.append(self.path)
            self.about(path.removeprefix("/api/datasets/").split("/"))
        else:
            self.path = self.path.replace("/datasets/", "/", 1)
            super().do_GET()


def probe(endpoint: str, home: Path, *names: str, script: str = PROBE, **settings: str) -> list[Any]:
    """Read datasets in a new process → one answer a name."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment |= {"PYTHONPATH": str(Path(hubs.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        env=environment | settings,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == "", "no progress bars, no warnings"
    return [json.loads(line) for line in done.stdout.splitlines()]


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


REPOS = {
    "org/shards": {
        "README.md": b"# text",
        "shards.py": b"import os; os.abort()",
        "data/train-00000-of-00002.jsonl": lines("a", "b"),
        "data/train-00001-of-00002.jsonl.gz": gzip.compress(lines("c")),
        "data/test-00000-of-00001.csv": b"text,label\nd,x\n",
    },
    "org/plain": {"everything.jsonl": lines("a")},
    "org/subsets": {"en/train.jsonl": lines("hello"), "zh/train.jsonl": lines("你好"), "zh/test.jsonl": lines("再见")},
    "org/script": {"script.py": b"import os; os.abort()", "model.pkl": b"\x80\x04"},
}


def test_datasets(tmp_path: Path) -> None:
    names = [
        "hf:org/shards", "org/shards=test", "hf:org/shards/test", "hf:org/shards/data/test-00000-of-00001.csv",
        "org/plain", "hf:org/subsets/zh", "hf:org/subsets/zh/test",
    ]  # fmt: skip
    with serving(REPOS, Datasets) as (endpoint, asked):
        shards, test, same, file, plain, zh, zh_test = probe(endpoint, tmp_path, *names)
        assert not any(".py" in path or ".pkl" in path for path in asked), "a script is not even fetched"
    begin = "hf:org/shards/data"
    assert shards["rows"] == [
        [f"{begin}/train-00000-of-00002.jsonl:1", {"text": "a"}],
        [f"{begin}/train-00000-of-00002.jsonl:2", {"text": "b"}],
        [f"{begin}/train-00001-of-00002.jsonl.gz:1", {"text": "c"}],
    ]
    assert shards["notes"][0].startswith("hf:org/shards: 2 files, data/train-00000-of-00002.jsonl to ")
    assert SHA[:8] in shards["notes"][0]
    assert len(shards["hashes"]) == 2
    assert test["rows"] == same["rows"] == file["rows"]
    assert test["rows"] == [[f"{begin}/test-00000-of-00001.csv:2", {"text": "d", "label": "x"}]]
    assert [values for _, values in plain["rows"]] == [{"text": "a"}]
    assert [values for _, values in zh["rows"]] == [{"text": "你好"}]
    assert [values for _, values in zh_test["rows"]] == [{"text": "再见"}]

    again, other, offline = *probe(endpoint, tmp_path, names[0], "hf:org/other"), probe(
        endpoint, tmp_path, names[0], HF_HUB_OFFLINE="1"
    )[0]  # fmt: skip
    assert again["rows"] == offline["rows"] == shards["rows"], "what was fetched is there without network"
    assert "the version fetched last" in again["notes"][0]
    assert f"cannot reach {endpoint}" in other["problem"] and other["seconds"] < 10
    assert "cannot reach" in other["problem"] and other["code"] == 3


def test_files_are_fetched_when_their_rows_are_read(tmp_path: Path) -> None:
    """The first rows come before the second file is asked for; what breaks in the first never asks for it."""
    last = "data/train-00001-of-00002.jsonl.gz"
    with serving(REPOS, Datasets) as (endpoint, asked):
        (found,) = probe(endpoint, tmp_path, "hf:org/shards", script=FIRST_ROWS)
        assert any(last in path for path in asked)
    assert found == [[0, None], [1, {"text": "a"}], [1, {"text": "b"}], [2, {"text": "c"}]]

    broken = {"org/shards": {**REPOS["org/shards"], "data/train-00000-of-00002.jsonl": b"\x80\x04"}}
    with serving(broken, Datasets) as (endpoint, asked):
        (tmp_path / "other").mkdir()
        (found,) = probe(endpoint, tmp_path / "other", "hf:org/shards", script=FIRST_ROWS)
        assert not any(last in path for path in asked)
    assert found[1][0] == 1 and "pickle" in found[1][1]


def test_a_file_that_is_gone_while_reading(tmp_path: Path) -> None:
    """One clear line after the rows of the files before it; the next time it goes on with that file."""

    class Gone(Datasets):
        def do_GET(self) -> None:
            if "00001-of" in self.path:
                self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
            else:
                super().do_GET()

    with serving(REPOS, Gone) as (endpoint, _):
        (answer,) = probe(endpoint, tmp_path, "hf:org/shards")
    assert "00001-of-00002.jsonl.gz broke off" in answer["problem"] and "goes on where it stopped" in answer["hint"]
    with serving(REPOS, Datasets) as (endpoint, asked):
        (answer,) = probe(endpoint, tmp_path, "hf:org/shards")
        assert [values for _, values in answer["rows"]] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
        assert not any("00000-of-00002.jsonl" in path for path in asked)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    cases = {
        "hf:org/nothing": "no dataset 'org/nothing', neither a local file nor at http",
        "org/nothing": "no dataset 'org/nothing'",
        "hf:org/gated": "org/gated is gated",
        "hf:org/broken": "cannot give org/broken",
        "hf:org/plain@no-such-branch": "org/plain has no revision 'no-such-branch'",
        "hf:org/script": "a loading script is never run",
        "hf:org/plain=test": "has no test files",
        "hf:org/subsets": "several sets of train rows",
        "hf:org/subsets/de": "has no data files in 'de'",
        "hf:org": "not the name of a dataset",
        "hf:../../etc/passwd": "",
    }
    with serving(REPOS, Datasets) as (endpoint, _):
        for (name, problem), answer in zip(cases.items(), probe(endpoint, tmp_path, *cases), strict=True):
            assert problem in answer["problem"], (name, answer)
            assert answer["code"] == 3 and answer["hint"] and answer["where"]


def test_silent_network(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        (answer,) = probe(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, "hf:org/name")
    assert "cannot reach" in answer["problem"]
    assert answer["seconds"] < 10


def test_choice_of_files() -> None:
    def choose(*names: str, rest: str = "", role: str = "train") -> list[str]:
        return hubs.choose(names, rest, role, "hf:org/name")

    assert choose("a/train.csv", "b.json", "train.md") == ["a/train.csv"]
    assert choose("train.csv", "train.parquet", "train.jsonl") == ["train.parquet"], "the same rows in several forms"
    assert choose("x_train_v2.json", "x_dev.json", role="validation") == ["x_dev.json"]
    assert choose("training-notes.csv", "b.csv") == ["b.csv", "training-notes.csv"], "nothing says what they are for"
    assert choose("../train.csv", "/train.csv", ".git/train.csv", "train.csv") == ["train.csv"]
    assert choose("train/0000.parquet", "test/0000.parquet", "dataset_infos.json") == ["train/0000.parquet"]
    with pytest.raises(DataError, match="it has test, train"):
        choose("train.csv", "test.csv", role="validation")


def test_modelscope(tmp_path: Path) -> None:
    """With the package itself: files come when their rows are read, once, and again when they changed."""
    pytest.importorskip("modelscope_hub", reason="needs tunery[modelscope]")
    first, last = (f"data/train-0000{n}-of-00002.jsonl" for n in range(2))
    notes = {f"notes/{n}.md": b"" for n in range(250)}  # more than one page
    repos = {"org/name": {"script.py": b"", **notes, first: lines("a", "b"), last: lines("c")}}
    settings = {"MODELSCOPE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}

    def ask(*names: str, **more: Any) -> list[Any]:
        return probe("", tmp_path, *names, MODELSCOPE_ENDPOINT=endpoint, **settings, **more)

    with serving(repos, ModelScope) as (endpoint, asked):
        (found,) = ask("modelscope:org/name", script=FIRST_MODELSCOPE)
        assert found == [[0, None], [1, {"text": "a"}], [1, {"text": "b"}], [2, {"text": "c"}]]
        assert "script.py" not in asked and not any("notes" in path for path in asked)
        asked.clear()
        again, missing = ask("modelscope:org/name/train", "modelscope:org/nothing")
        assert again["rows"][2] == [f"modelscope:org/name/{last}:1", {"text": "c"}]
        assert first not in asked and last not in asked
        assert "cannot give org/nothing" in missing["problem"] and missing["code"] == 3
    changed = {"org/name": {**repos["org/name"], last: lines("d")}}
    with serving(changed, ModelScope) as (endpoint, asked):
        (other,) = ask("modelscope:org/name")
        assert [values["text"] for _, values in other["rows"]] == ["a", "b", "d"]
        assert first not in asked
    offline, unknown = ask("modelscope:org/name", "modelscope:org/other")
    assert offline["rows"] == other["rows"] and "the version fetched last" in offline["notes"][0]
    assert f"cannot reach {endpoint}" in unknown["problem"] and unknown["seconds"] < 10


def test_modelscope_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(DataError, match=r"tunery\[modelscope\]"):
        read("modelscope:org/name")
