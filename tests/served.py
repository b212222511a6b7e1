"""What the tests of ``tunery serve`` share: runs that answer with a mark of their own, and a server in a process."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import small

MARKS = {"alpha": "Paris.", "beta": "London.", "gamma": "Monday."}
"""Adapters over one base, and what each answers to everything."""
LONG = "long"
"""An adapter that goes on and on."""


def make_runs(folder: Path, llama: Path, bert: Path) -> Path:
    """→ a folder with the runs of ``MARKS``, ``LONG`` and a classifier ``moods``."""
    base = small.lively(llama, folder / "base")
    runs = folder / "runs"
    for name, mark in {**MARKS, LONG: "order " * 30}.items():
        rows = [{"question": f"{small.WORDS[i % 10]} {i}?", "answer": mark.strip()} for i in range(320)]
        small.train(
            runs, base, small.write(folder / f"{name}.jsonl", rows), task="instruct", method="lora", run__name=name,
            method__r=8, train__lr=2e-2, train__max_steps=30, train__batch_size=10, eval__base=False,
            eval__generate_rows=0, eval__baselines=False,
        )  # fmt: skip
    data = small.write(folder / "moods.jsonl", small.labelled(40))
    small.train(
        runs, bert, data, task="classify", method="lora", run__name="moods", train__epochs=1, train__lr=1e-2,
        task__pooling="mean", eval__baselines=False,
    )  # fmt: skip
    return runs


class Server:
    """``tunery serve`` in a process of its own, on a port that is free."""

    def __init__(self, *arguments: str | Path, cwd: Path, port: int = 0, wait: float = 120) -> None:
        known = set(cwd.glob("child-*.out"))
        self.child = small.Child("serve", *arguments, "--port", str(port), cwd=cwd)
        (self._out,) = set(cwd.glob("child-*.out")) - known
        self.url = self._ready(time.monotonic() + wait)

    def _ready(self, until: float) -> str:
        while time.monotonic() < until:
            found = re.search(r"^serving .* at (http://\S+)$", self.printed, re.MULTILINE)
            if found:
                return found[1]
            assert self.child.running, self.printed
            time.sleep(0.05)
        raise AssertionError(f"not ready: {self.printed}")

    @property
    def printed(self) -> str:
        return self._out.read_text() + self._out.with_suffix(".err").read_text()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    def client(self, **settings: Any) -> openai.OpenAI:
        """OpenAI's own, which does not try again unless told to."""
        named = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60.0, **settings}
        return openai.OpenAI(**named)

    def get(self, path: str, **settings: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **settings)

    def post(self, path: str, body: Any = None, **settings: Any) -> httpx.Response:
        if body is not None:
            settings["json"] = body
        return httpx.post(self.url + path, timeout=60, **settings)

    def metric(self, name: str) -> float:
        """Sum of a metric's values."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(\{{|\s)", line))

    def idle(self, wait: float = 60) -> None:
        """Wait until nothing runs and nothing waits."""
        until = time.monotonic() + wait
        while self.metric("tunery_engine_running") + self.metric("tunery_engine_queued"):
            assert time.monotonic() < until, "rows are not freed"
            time.sleep(0.05)

    def socket(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        if self.child.running:
            self.child.send(number)
        return self.child.end()


def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """For the documentation: ``tunery serve`` returns when it is ready, and OpenAI's client finds it, whatever port a
    page shows. One server at a time → what stops it.
    """
    from tunery.serve import server
    from tunery.serve.worker import Worker

    now: list[Callable[[], None]] = []
    ports: list[int] = []

    def stop() -> None:
        while now:
            now.pop()()

    def run(options: server.Options, on_ready: Callable[[str], None]) -> dict[str, Any]:
        stop()
        listener = server.bind("127.0.0.1", ports[0] if ports else 0)
        ports[:] = [listener.getsockname()[1]]  # the same for all servers of a page, as it shows one port
        worker = Worker(options.runs)
        worker.start()
        ready = threading.Event()
        started = server.Server(server.serving_of(options, worker), options, ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(started.serve([listener])))
        thread.start()
        assert ready.wait(60)

        def end() -> None:
            started.should_exit = True
            thread.join()

        now.append(end)
        url = server.address(listener)
        on_ready(url)
        monkeypatch.setattr(openai, "OpenAI", lambda **named: real(**{**named, "base_url": f"{url}/v1"}))
        return {"address": url, "models": sorted(options.runs), "requests": 0, "cut_off": 0, "seconds": 0.0}

    real = openai.OpenAI
    monkeypatch.setattr(server, "run", run)
    return stop


def raw(server: Server, request: bytes) -> bytes:
    """What a socket gets back, until the server closes it."""
    with server.socket() as connection:
        connection.sendall(request)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def error(body: Any) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape."""
    value = json.loads(body) if isinstance(body, str | bytes) else body
    assert set(value) == {"error"} and set(value["error"]) == {"message", "type", "param", "code"}, value
    return dict(value["error"])
