"""``tunery serve`` when something goes wrong: bad clients, full queues, damaged files, signals. And who may ask."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import verbs
from served import LONG, MARKS, Server, error, everything, make_runs, raw
from small import one_thread  # noqa: F401
from tunery.run import aliases

ASKED = [{"role": "user", "content": "Where is my order?"}]
CHAT: dict[str, Any] = {"model": "alpha", "messages": ASKED, "max_tokens": 4}
LONGER: dict[str, Any] = {"model": LONG, "messages": ASKED, "max_tokens": 200, "temperature": 0.01}
READ = 2.0
TOKEN = "a-token-of-the-tests-0123"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_bert: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache-home"))
        yield make_runs(folder, tiny_llama, tiny_bert)


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    """Small limits, so that they are reached soon."""
    names = [runs / name for name in ("alpha", LONG, "moods")]
    limits = ("--read-timeout", READ, "--max-body", 100_000, "--max-tokens", 460)
    started = Server(*names, *map(str, limits), cwd=runs.parent)
    yield started
    code, _, printed = started.stop()
    assert code == 0 and "Traceback" not in printed, printed


def chat_bytes(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answered(found: bytes) -> tuple[int, dict[str, Any]]:
    """→ status and error of a raw answer."""
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), error(body)


def still_answers(server: Server) -> None:
    assert server.post("/v1/chat/completions", CHAT).status_code == 200


# --------------------------------------------------------------------------------------------- bad clients


def test_a_body_of_100_mb(server: Server) -> None:
    big = b" " * (100 << 20)
    headers = {"content-type": "application/json"}
    answer = server.post("/v1/chat/completions", content=big, headers=headers)
    assert answer.status_code == 413 and error(answer.text)["code"] == "body_too_large"

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield big[: 1 << 20]

    answer = server.post("/v1/chat/completions", content=chunks(), headers=headers)
    assert answer.status_code == 413, "without a Content-Length"
    still_answers(server)


@pytest.mark.parametrize("body", [b"[" * 50_000, b'{"a":' * 10_000, b'[{"a":' * 33 + b"1" + b"}]" * 33])
def test_deep_json(server: Server, body: bytes) -> None:
    answer = server.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and error(answer.text)["code"] == "json_too_deep"
    brackets = {**CHAT, "messages": [{"role": "user", "content": "[" * 100 + '"' + "{" * 100}]}
    assert server.post("/v1/chat/completions", brackets).status_code == 200, "in a text they are text"


@pytest.mark.parametrize("length", ["-1", "abc", "5, 6", "1" * 40, "+5", ""])
def test_a_content_length_that_is_none(server: Server, length: str) -> None:
    body = json.dumps(CHAT).encode()
    found = raw(server, chat_bytes(body, f"Content-Length: {length}", "Connection: close"))
    status, _ = answered(found)
    assert status in (400, 413)
    still_answers(server)


def test_a_content_length_that_is_too_small(server: Server) -> None:
    status, _ = answered(raw(server, chat_bytes(json.dumps(CHAT).encode(), "Connection: close", length=10)))
    assert status == 400


def test_a_content_length_that_is_too_large(server: Server) -> None:
    status, found = answered(raw(server, chat_bytes(json.dumps(CHAT).encode(), "Connection: close", length=9_999)))
    assert status == 408 and found["code"] == "too_slow"


def test_clients_that_are_slow(server: Server) -> None:
    """With their headers, with their body, or with everything; others are answered meanwhile."""
    whole = chat_bytes(json.dumps(CHAT).encode(), length=len(json.dumps(CHAT)))
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.socket()) for _ in range(6)]
        parts = [b"", b"G", whole[:40], whole[:-20], whole[:-1], b"POST /v1/models HTTP/1.1\r\nX: "]
        for connection, part in zip(slow, parts, strict=True):
            connection.sendall(part)
        still_answers(server)
        with contextlib.suppress(OSError):
            while time.monotonic() < begun + READ * 1.5:  # a byte now and then does not help
                slow[5].sendall(b"a")
                time.sleep(0.2)
        for connection, part in zip(slow, parts, strict=True):
            with contextlib.suppress(ConnectionResetError):
                status, found = answered(everything(connection))
                assert status == 408 and found["code"] == "too_slow", part
    still_answers(server)


def test_a_client_that_does_not_read_holds_nobody(server: Server) -> None:
    with server.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = json.dumps({**LONGER, "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
        connection.sendall(chat_bytes(body, length=len(body)))
        still_answers(server)
        server.idle()


def test_a_client_that_leaves_frees_its_row(server: Server) -> None:
    """In a stream, and while it waits for a whole answer."""
    stream = server.client().chat.completions.create(stream=True, **LONGER)
    for _, _event in zip(range(3), stream, strict=False):
        pass
    stream.close()
    with server.socket() as connection:
        body = json.dumps(LONGER).encode()
        connection.sendall(chat_bytes(body, length=len(body)))
        time.sleep(0.05)
    server.idle()
    assert server.metric("tunery_engine_cancelled_total") >= 1
    still_answers(server)


def test_nothing_but_http(server: Server) -> None:
    assert answered(raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"))[0] == 400
    upgrade = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert raw(server, upgrade).startswith(b"HTTP/1.1 ")
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        assert answered(raw(server, head))[0] == 400
    still_answers(server)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("127.0.0.1:8000", 200), ("[::1]:80", 200), ("LOCALHOST.", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("10.0.0.1", 403), ("", 403),
    ],
)  # fmt: skip
def test_the_host_must_be_this_machine(server: Server, host: str, status: int) -> None:
    """A page whose name is pointed at 127.0.0.1 (DNS rebinding) sends its own name."""
    answer = server.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    assert status == 200 or error(answer.text)["code"] == "host_not_allowed"


# ------------------------------------------------------------------------------------- schemathesis


def test_the_own_openapi_finds_no_defect(server: Server) -> None:
    """Requests made from the document, right and wrong ones: none may end in a 5xx, or in another shape."""
    import hypothesis
    import schemathesis

    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for strategy in (
            operation.as_strategy(),
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
        ):
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):

                @hypothesis.settings(
                    max_examples=15, deadline=None, database=None, derandomize=True,
                    suppress_health_check=list(hypothesis.HealthCheck),
                )  # fmt: skip
                @hypothesis.given(case=strategy)
                def check(case: Any) -> None:
                    nonlocal tried
                    if isinstance(case.body, dict) and case.body.get("model") is not None:
                        case.body["model"] = ("alpha", "moods")[len(str(case.body)) % 2]
                    answer = case.call(base_url=server.url, timeout=60)
                    assert answer.status_code < 500, (answer.status_code, answer.text)
                    if answer.status_code >= 400:
                        error(answer.text)
                    tried += 1

                check()
    assert tried > 50
    server.idle()


# ------------------------------------------------------------------------------------------ full, and over


def test_a_full_queue(runs: Path) -> None:
    server = Server(runs / LONG, "--max-batch", "1", "--max-queue", "2", cwd=runs.parent)
    try:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: server.post("/v1/chat/completions", LONGER), range(12)))
        statuses = [answer.status_code for answer in found]
        assert set(statuses) == {200, 429}
        for answer in found:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1 and error(answer.text)["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError), concurrent.futures.ThreadPoolExecutor(12) as pool:
            client = server.client()
            list(pool.map(lambda _: client.chat.completions.create(**LONGER), range(12)))
        patient = server.client(max_retries=20)
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            short = {**LONGER, "max_tokens": 5}
            assert len(list(pool.map(lambda _: patient.chat.completions.create(**short), range(6)))) == 6
    finally:
        assert server.stop(signal.SIGINT)[0] == 0


def test_an_answer_that_takes_too_long(runs: Path) -> None:
    server = Server(runs / LONG, "--timeout", "0.05", cwd=runs.parent)
    answer = server.post("/v1/chat/completions", LONGER)
    assert answer.status_code == 504 and error(answer.text)["code"] == "timeout"
    streamed = server.post("/v1/chat/completions", {**LONGER, "stream": True}).text
    assert error(streamed.strip().split("\n\n")[-1].removeprefix("data: "))["code"] == "timeout"
    server.idle()
    assert server.stop()[0] == 0


def test_sigterm_under_load(runs: Path) -> None:
    """Every answer that has begun is whole; new requests hear that it is over; the process ends with 0."""
    server = Server(runs / LONG, "--max-batch", "4", "--drain", "300", cwd=runs.parent)
    client = server.client()
    begun = threading.Barrier(9)

    def stream(_: int) -> str:
        events = iter(client.chat.completions.create(stream=True, **LONGER))
        next(events)
        begun.wait(60)
        found = list(events)
        return str(found[-1].choices[0].finish_reason)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(stream, i) for i in range(8)]
        begun.wait(60)
        server.child.send(signal.SIGTERM)
        refused = None
        while server.child.running and refused is None:
            with contextlib.suppress(httpx.HTTPError):
                answer = server.post("/v1/chat/completions", CHAT)
                refused = answer if answer.status_code == 503 else None
        assert [future.result() for future in futures] == ["length"] * 8
    assert server.stop()[0] == 0 and "cut off" not in server.printed, server.printed
    assert refused is None or (refused.headers["retry-after"] and error(refused.text)["code"] == "shutting_down")


def test_what_does_not_end_in_time_is_cut_off(runs: Path) -> None:
    server = Server(runs / LONG, "--drain", "0", cwd=runs.parent)
    events = iter(server.client().chat.completions.create(stream=True, **LONGER))
    next(events)
    server.child.send(signal.SIGTERM)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        for _ in events:
            pass
    assert server.stop()[0] == 0 and "1 cut off" in server.printed


# --------------------------------------------------------------------------- swapping what is served


def test_adapters_come_and_go_while_others_are_asked(runs: Path, tmp_path: Path) -> None:
    """With a token. Names from the folder alone; a damaged adapter changes nothing; no answer is dropped or mixed."""
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    settings = ("--token-file", str(token), "--runs-folder", str(folder))
    server = Server(f"one={folder / 'alpha'}", folder / "moods", *settings, cwd=tmp_path)
    headers = {"authorization": f"Bearer {TOKEN}"}
    client = server.client(api_key=TOKEN)

    def put(name: str, run: str) -> httpx.Response:
        return server.post("/v1/adapters", {"name": name, "run": run}, headers=headers)

    try:
        for wrong in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
                answer = server.get(path, headers={"authorization": wrong})
                assert answer.status_code == 401 and error(answer.text)["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="wrong-wrong-wrong").models.list()
        assert server.get("/health").status_code == 200
        for run in ("../runs/alpha", "/etc", str(folder / "beta"), "http://x/y", "..", ".", "a/b", "alpha\x00"):
            assert put("two", run).status_code in (400, 404)
        assert put("../two", "beta").status_code == 400
        assert put("two", "nothing").status_code == 404

        over = threading.Event()
        wrong_answers: list[str] = []
        count = 0

        def ask() -> None:
            nonlocal count
            while not over.is_set():
                answer = client.chat.completions.create(model="one", messages=ASKED, max_tokens=4)  # type: ignore[arg-type]
                run, text = str(answer.system_fingerprint), str(answer.choices[0].message.content)
                count += 1
                if not text.startswith(MARKS[run][:5]):
                    wrong_answers.append(f"{run} said {text}")

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            for run in ("beta", "gamma", "alpha"):
                assert put("one", run).status_code == 201
                answer = client.chat.completions.create(model="one", messages=ASKED, max_tokens=4)  # type: ignore[arg-type]
                assert answer.system_fingerprint == run
            (weights,) = (folder / "beta" / "model").glob("*.safetensors")
            weights.write_bytes(weights.read_bytes()[:-1000])
            damaged = put("one", "beta")
            assert damaged.status_code == 409 and error(damaged.text)["code"] == "not_loadable"
            (folder / "gamma" / "manifest.json").write_text("{")
            assert put("one", "gamma").status_code == 409
            assert client.models.retrieve("one").model_extra["run"] == "alpha"  # type: ignore[index]
            over.set()
            for each in asking:
                each.result()
        assert count > 20 and not wrong_answers
        assert put("two", "alpha").status_code == 201 and client.models.retrieve("two")
        gone = httpx.delete(f"{server.url}/v1/adapters/two", headers=headers)
        assert gone.status_code == 200 and gone.json()["deleted"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("two")
    finally:
        code, _, printed = server.stop()
    assert code == 0 and TOKEN not in printed


def test_an_alias_is_followed(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    aliases.promote(folder / "alpha", "support", folder)
    server = Server("support", cwd=tmp_path)
    client = server.client()

    def run_of() -> str:
        answer = client.chat.completions.create(model="support", messages=ASKED, max_tokens=4)  # type: ignore[arg-type]
        run = str(answer.system_fingerprint)
        assert str(answer.choices[0].message.content).startswith(MARKS[run][:5])
        return run

    try:
        assert run_of() == "alpha"
        aliases.promote(folder / "beta", "support", folder)
        until = time.monotonic() + 60
        while run_of() != "beta":
            assert time.monotonic() < until
        aliases.rollback("support", folder)
        while run_of() != "alpha":
            assert time.monotonic() < until
    finally:
        assert server.stop()[0] == 0


def test_an_alias_that_is_followed_is_changed_by_promote_alone(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    for name in ("alpha", "beta"):
        shutil.copytree(runs / name, folder / name)
    aliases.promote(folder / "alpha", "support", folder)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    server = Server("support", "--token-file", "token", cwd=tmp_path)
    headers = {"authorization": f"Bearer {TOKEN}"}
    try:
        answer = server.post("/v1/adapters", {"name": "support", "run": "beta"}, headers=headers)
        assert answer.status_code == 409, answer.text
        found = error(answer.text)
        assert (found["code"], found["param"]) == ("followed_alias", "name") and "tunery promote" in found["message"]
        models = server.get("/v1/models", headers=headers).json()["data"]
        assert [(model["id"], model["run"]) for model in models] == [("support", "alpha")]
        assert aliases.read(folder)["support"].name == "alpha"
        other = server.post("/v1/adapters", {"name": "other", "run": "beta"}, headers=headers)
        assert other.status_code == 201
        assert httpx.delete(f"{server.url}/v1/adapters/support", headers=headers).status_code == 409
    finally:
        assert server.stop()[0] == 0


# ------------------------------------------------------------------------------- what does not even start


def test_a_port_in_use(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = verbs.call(capsys, "serve", runs / "alpha", "--port", str(port), "--json")
    assert answer.code == 5 and "in use" in answer.error["problem"] and str(port) in answer.error["problem"]
    assert len(answer.err.strip().splitlines()) == 1


def test_open_to_others_only_with_a_token(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        answer = verbs.call(capsys, "serve", runs / "alpha", "--host", host, "--json")
        assert answer.code == 2 and "token" in answer.error["problem"] + answer.error["hint"]
    for content, problem in (
        ("short", "16 characters"),
        ("two words of a token", "one word"),
        ("", "16"),
        ("é" * 20, "ASCII"),
    ):
        (tmp_path / "token").write_text(content, encoding="utf-8")
        answer = verbs.call(capsys, "serve", runs / "alpha", "--token-file", tmp_path / "token", "--json")
        assert answer.code == 2 and problem in answer.error["problem"]
    answer = verbs.call(capsys, "serve", runs / "alpha", "--token-file", tmp_path / "none", "--json")
    assert answer.code == 2


def test_what_cannot_be_served(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = verbs.call(capsys, "serve", tmp_path / "none", "--port", "0", "--json")
    assert answer.code == 6
    answer = verbs.call(capsys, "serve", runs / "alpha", f"alpha={runs / 'beta'}", "--json")
    assert answer.code == 2 and "NAME=RUN" in answer.error["hint"]
    damaged = tmp_path / "damaged"
    shutil.copytree(runs / "alpha", damaged)
    (weights,) = (damaged / "model").glob("*.safetensors")
    weights.write_bytes(b"x")
    answer = verbs.call(capsys, "serve", damaged, "--port", "0", "--json")
    assert answer.code == 6 and len(answer.err.strip().splitlines()) >= 1


def test_a_missing_extra_is_named(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    answer = verbs.call(capsys, "serve", runs / "alpha", "--json")
    assert answer.code == 2 and "tunery[serve]" in answer.error["hint"]
