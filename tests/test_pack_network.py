"""Pulling packs over bad networks: a clear error within seconds, and patience while bytes arrive."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunery.errors import ModelError
from tunery.models import packs, wheel
from wheels import leftovers, point_pip_at

TIMEOUT = 10.0
"""Seconds within which a user without network must hear of it."""


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def serving(handler: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                handler(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def index(wheel_file: Path, pieces: int, pause: float, stop_after: int | None = None) -> Any:
    """An index that sends the wheel in pieces, with a pause before each; it may stop in the middle."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        data = wheel_file.read_bytes()
        request.send_response(200)
        if not request.path.endswith(".whl"):
            page = f'<html><body><a href="/{wheel_file.name}">{wheel_file.name}</a></body></html>'.encode()
            request.send_header("Content-Type", "text/html")
            request.send_header("Content-Length", str(len(page)))
            request.end_headers()
            request.wfile.write(page)
            return
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        step = len(data) // pieces + 1
        for number in range(pieces):
            if number == stop_after:
                time.sleep(30)
            time.sleep(pause)
            request.wfile.write(data[number * step : (number + 1) * step])

    return answer


def assert_quick_failure(message: str) -> None:
    since = time.monotonic()
    with pytest.raises(ModelError, match=message) as raised:
        packs.pull("tiny")
    assert time.monotonic() - since < TIMEOUT
    assert raised.value.code == 6 and raised.value.hint
    assert leftovers() == []


def test_no_network_refused(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    point_pip_at(monkeypatch, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert_quick_failure("cannot reach the package index to fetch tiny-pack==0.1.0")


def test_no_network_silent(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    with blackhole() as address:
        point_pip_at(monkeypatch, PIP_INDEX_URL=f"{address}/simple", PIP_DEFAULT_TIMEOUT="180")
        assert_quick_failure("cannot reach the package index.*sends nothing")


def test_not_in_the_index(pack: packs.Pack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_pip_at(monkeypatch, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert_quick_failure("pip cannot fetch tiny-pack==0.1.0: Could not find a version")


def test_slow_download_is_left_alone(pack: packs.Pack, wheel_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole takes much longer than the limit, which is for silence only."""
    monkeypatch.setattr(wheel, "STALL", 2.0)
    shares: list[float] = []
    with serving(index(wheel_file, pieces=12, pause=0.4)) as address:
        point_pip_at(monkeypatch, PIP_INDEX_URL=f"{address}/simple")
        packs.pull("tiny", lambda stage, share: shares.append(share) if stage == "downloading" else None)
    assert pack.cached
    assert shares == sorted(shares) and len(set(shares)) > 3, "progress is reported while it comes"


def test_stalled_download(pack: packs.Pack, wheel_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "STALL", 2.0)
    with serving(index(wheel_file, pieces=4, pause=0.05, stop_after=2)) as address:
        point_pip_at(monkeypatch, PIP_INDEX_URL=f"{address}/simple")
        assert_quick_failure("sends nothing")
