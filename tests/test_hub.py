"""Models from a hub: a small server of our own in its place, each case in a process with HF_ENDPOINT set."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tunery.errors import ModelError
from tunery.models import folder, hub

SHA = "0123456789abcdef0123456789abcdef01234567"
PROBE = """
import json, sys, time
from tunery.errors import TuneryError
from tunery.models import hub
for repo in sys.argv[1:]:
    repo, _, revision = repo.partition("@")
    since = time.monotonic()
    try:
        fetch = hub.modelscope if repo.startswith("modelscope:") else hub.fetch
        found = fetch(repo.removeprefix("modelscope:"), revision or None, False)
        print(json.dumps({"path": str(found)}), flush=True)
    except TuneryError as error:
        print(json.dumps({**error.as_dict(), "seconds": time.monotonic() - since}), flush=True)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The three questions that matter: about a model, its files, one file."""

    repos: dict[str, dict[str, bytes]]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            self.about(path.removeprefix("/api/models/").split("/"))
        else:
            org, name, _, _, file = path.removeprefix("/").split("/", 4)
            data = self.repos[f"{org}/{name}"][file]
            etag = hashlib.sha256(data).hexdigest()
            self.answer(200, data, **{"ETag": f'"{etag}"', "X-Repo-Commit": SHA})

    def about(self, parts: list[str]) -> None:
        repo = "/".join(parts[:2])
        if repo == "org/gated":
            self.answer(403, b"{}", **{"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repo == "org/broken":
            self.answer(500, b"{}")
        elif repo not in self.repos:
            self.answer(401, b"{}", **{"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
        elif "no-such-branch" in parts:
            self.answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no revision"})
        elif "tree" in parts:
            files = self.repos[repo].items()
            tree = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files]
            self.answer(200, json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": name} for name in self.repos[repo]]
            self.answer(200, json.dumps({"id": repo, "sha": SHA, "siblings": siblings, "private": False}).encode())

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class ModelScope(Hub):
    """The two questions its package asks: which files, those of a dataset page by page, and one file."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query))
        self.asked.append(asked.get("FilePath") or path)
        kind, *parts = path.removeprefix("/api/v1/").split("/")
        files = self.repos.get("/".join(parts[:2]))
        if path == "/":
            self.answer(200, b"")
        elif files is None:
            self.answer(404, json.dumps({"Code": 10010205001, "Message": "no such thing", "Success": False}).encode())
        elif "FilePath" in asked:
            self.answer(200, files[asked["FilePath"]])
        else:
            listed = [self.entry(name, data) for name, data in files.items()]
            if kind == "datasets":
                page, size = int(asked["PageNumber"]), int(asked["PageSize"])
                listed = listed[(page - 1) * size : page * size]
            self.answer(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": listed}}).encode())

    def entry(self, name: str, data: bytes) -> dict[str, Any]:
        return {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}


@contextmanager
def serving(repos: dict[str, dict[str, bytes]], kind: type[Hub] = Hub) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (kind,), {"repos": repos, "asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def probe(endpoint: str, home: Path, *repos: str, **settings: str) -> list[dict[str, Any]]:
    """Ask for models in a new process → one answer a model."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(Path(hub.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *repos],
        env=environment | settings,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == "", "no progress bars, no warnings"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def repos(tiny_bert: Path) -> dict[str, dict[str, bytes]]:
    model = {path.name: path.read_bytes() for path in tiny_bert.iterdir()}
    bare = {name: data for name, data in model.items() if not name.endswith(".safetensors")}
    extra = {
        "pytorch_model.bin": b"\x80",
        "run.py": b"exit()",
        "onnx/model.json": b"{}",
        "1_Pooling/config.json": b"{}",
    }
    return {
        "org/good": {**model, **extra},
        "org/pickled": {**bare, "pytorch_model.bin": b"\x80"},
        "org/gguf": {"model.Q4_0.gguf": b"GGUF"},
        "org/empty": {"README.md": b""},
    }


def test_hub(repos: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    names = ("good", "nothing", "gated", "broken", "good@no-such-branch", "pickled", "gguf", "empty")
    with serving(repos) as (endpoint, asked):
        good, nothing, gated, broken, branch, pickled, gguf, empty = probe(
            endpoint, tmp_path, *(f"org/{name}" for name in names)
        )
        assert not any("run.py" in path or ".bin" in path or "onnx" in path for path in asked if "resolve" in path)
    path = Path(good["path"])
    folder.check(path)
    assert path.name == SHA and tmp_path in path.parents, "HF_HOME is where it goes"
    assert (path / "model.safetensors").read_bytes() == repos["org/good"]["model.safetensors"]
    assert (path / "1_Pooling" / "config.json").is_file()
    for answer, problem in (
        (nothing, "no model 'org/nothing', neither a local folder nor at http"),
        (gated, "org/gated is gated"),
        (broken, "cannot give org/broken"),
        (branch, "org/good has no revision 'no-such-branch'"),
        (pickled, "org/pickled has only pickled weights"),
        (gguf, "org/gguf has GGUF files only"),
        (empty, "org/empty has no weights"),
    ):
        assert problem in answer["problem"] and answer["code"] == 6 and answer["hint"]

    again, other = probe(endpoint, tmp_path, "org/good", "org/other")
    assert again == good, "what is in the cache needs no server"
    assert f"cannot reach {endpoint}" in other["problem"] and other["seconds"] < 10
    assert probe(endpoint, tmp_path, "org/good", HF_HUB_OFFLINE="1") == [good]
    (path / "tokenizer.json").unlink()
    (holed,) = probe(endpoint, tmp_path, "org/good", HF_HUB_OFFLINE="1")
    assert "not in the cache" in holed["problem"], "a snapshot with a hole is not used"


def test_modelscope(repos: dict[str, dict[str, bytes]], tmp_path: Path) -> None:
    """With the package itself: nothing but safetensors and text is fetched, and once."""
    pytest.importorskip("modelscope", reason="needs tunery[modelscope]")
    settings = {"MODELSCOPE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    names = ("modelscope:org/good", "modelscope:org/nothing", "modelscope:org/pickled")
    with serving(repos, ModelScope) as (endpoint, asked):
        good, nothing, pickled = probe("", tmp_path, *names, MODELSCOPE_ENDPOINT=endpoint, **settings)
        assert not any(".py" in path or ".bin" in path or "onnx" in path for path in asked)
    path = Path(good["path"])
    assert (path / "model.safetensors").read_bytes() == repos["org/good"]["model.safetensors"]
    assert "cannot give org/nothing" in nothing["problem"] and nothing["code"] == 6
    assert "path" in pickled, "that weights are missing is said when the folder is checked"
    with pytest.raises(ModelError):
        folder.check(Path(pickled["path"]))
    again, other = probe("", tmp_path, names[0], "modelscope:org/other", MODELSCOPE_ENDPOINT=endpoint, **settings)
    assert again == good, "what is in the cache needs no server"
    assert f"cannot reach {endpoint}" in other["problem"] and other["seconds"] < 10


def test_silent_network(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (answer,) = probe(endpoint, tmp_path, "org/name")
    assert "cannot reach" in answer["problem"] and "smollm2" in answer["hint"]
    assert answer["seconds"] < 10


def test_local_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_cached", lambda *a: None)
    with pytest.raises(ModelError, match="offline"):
        hub.fetch("org/name", None, local_only=True)
