"""``tunery serve`` as a client sees it: a real process, a real socket, OpenAI's own client."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import tunery
from served import LONG, MARKS, Server, error, make_runs
from small import one_thread  # noqa: F401
from tunery.generate.engine import Sampling
from tunery.protocols import Message

ASKED = [{"role": "user", "content": "Where is my order?"}]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_bert: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache-home"))
        yield make_runs(folder, tiny_llama, tiny_bert)


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    """All runs, in one process."""
    started = Server(*sorted(path for path in runs.iterdir() if path.is_dir()), cwd=runs.parent)
    yield started
    code, _, printed = started.stop()
    assert code == 0, printed
    for text in ("Where is my order", "Paris.", "Traceback"):
        assert text not in printed, "what was asked or answered is in the log"


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()


def say(client: openai.OpenAI, model: str, **settings: Any) -> Any:
    return client.chat.completions.create(model=model, messages=ASKED, **settings)  # type: ignore[call-overload]


def text_of(answer: Any) -> str:
    return str(answer.choices[0].message.content)


# -------------------------------------------------------------------------------------------------- chat


@pytest.mark.parametrize("name", [*MARKS, LONG])
def test_an_answer_is_what_generate_says(client: openai.OpenAI, runs: Path, name: str) -> None:
    expected = tunery.load(runs / name).generate(ASKED[0]["content"], Sampling(max_new_tokens=12))
    answer = say(client, name, max_tokens=12)
    assert text_of(answer) == expected and expected.startswith(MARKS.get(name, "order"))
    assert answer.model == name and answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.system_fingerprint == name, "the run that answered"


def test_the_prompt_is_made_with_the_runs_template(client: openai.OpenAI, runs: Path) -> None:
    turns = [("system", "Be brief."), ("user", "hello"), ("assistant", "Hi."), ("user", "parcel 3?")]
    run = tunery.load(runs / "alpha")
    expected = run.generate([Message(role, text) for role, text in turns], Sampling(max_new_tokens=6))  # type: ignore[arg-type]
    messages: Any = [{"role": role, "content": text} for role, text in turns]
    messages[0]["role"] = "developer"
    messages[1]["content"] = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    answer = client.chat.completions.create(model="alpha", messages=messages, max_completion_tokens=6)
    assert text_of(answer) == expected


@pytest.mark.parametrize("name", ["alpha", "gamma"])
def test_a_streams_pieces_are_the_answer(client: openai.OpenAI, name: str) -> None:
    """Gamma says halves of characters."""
    settings: Any = {"max_tokens": 20, "seed": 3, "temperature": 0.7}
    whole = say(client, name, **settings)
    events = list(say(client, name, stream=True, stream_options={"include_usage": True}, **settings))
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == text_of(whole)
    assert [e.choices[0].finish_reason for e in events if e.choices and e.choices[0].finish_reason] == ["length"]
    assert events[-1].usage == whole.usage and not events[-1].choices
    assert {e.id for e in events} == {events[0].id} and all(e.usage is None for e in events[:-1])
    plain = list(say(client, name, stream=True, **settings))
    assert all(e.choices for e in plain), "no usage unless it is asked for"


def test_what_a_stream_looks_like(server: Server) -> None:
    body = {"model": "alpha", "messages": ASKED, "max_tokens": 3, "stream": True}
    answer = server.post("/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: ") for line in lines[:-1])


def test_stop_strings(client: openai.OpenAI) -> None:
    free = text_of(say(client, "alpha", max_tokens=12))
    assert free.startswith("Paris.")
    for stop in ("ris", [free[4:8], "never"], "s.", free[:2]):
        wanted = free[: free.index(stop if isinstance(stop, str) else stop[0])].strip()
        answer = say(client, "alpha", max_tokens=12, stop=stop, logprobs=True)
        assert text_of(answer) == wanted and answer.choices[0].finish_reason == "stop"
        shown = b"".join(bytes(one.bytes) for one in answer.choices[0].logprobs.content)
        assert wanted.encode().startswith(shown.strip()), "a token behind the stop"
        pieces = say(client, "alpha", max_tokens=12, stop=stop, stream=True)
        assert "".join(e.choices[0].delta.content or "" for e in pieces) == wanted


def test_a_seed_decides(client: openai.OpenAI) -> None:
    def once(**settings: Any) -> str:
        return text_of(say(client, LONG, max_tokens=16, temperature=1.5, **settings))

    assert once(seed=1) == once(seed=1) != once(seed=2)
    assert len({once() for _ in range(4)}) > 1, "without a seed every answer is another"
    assert once(seed=-(2**63)) == once(seed=-(2**63))
    assert text_of(say(client, LONG, max_tokens=16, temperature=1.5, top_p=1e-6, seed=1)) == text_of(
        say(client, LONG, max_tokens=16)
    )


def test_the_coldest_temperatures_choose_the_likeliest_token(client: openai.OpenAI) -> None:
    free = text_of(say(client, LONG, max_tokens=16))
    for temperature in (1e-6, 1e-40, 5e-324):
        assert text_of(say(client, LONG, max_tokens=16, temperature=temperature)) == free


def test_whoever_speaks_is_not_in_the_prompt(client: openai.OpenAI) -> None:
    named: Any = [{**ASKED[0], "name": "Anna"}]
    answer = client.chat.completions.create(model="alpha", messages=named, max_tokens=4)
    assert text_of(answer) == text_of(say(client, "alpha", max_tokens=4))


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = say(client, "alpha", max_tokens=6, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == 6
    for one in content:
        assert one.logprob <= 0 and len(one.top_logprobs) == 3
        assert one.top_logprobs[0].token == one.token and one.top_logprobs[0].logprob == pytest.approx(one.logprob)
        values = [other.logprob for other in one.top_logprobs]
        assert values == sorted(values, reverse=True)
    assert b"".join(bytes(one.bytes) for one in content).decode("utf-8", "replace").strip() == text_of(answer)
    assert say(client, "alpha", max_tokens=2).choices[0].logprobs is None
    events = list(say(client, "alpha", max_tokens=6, logprobs=True, top_logprobs=3, stream=True))
    streamed = [one for e in events if e.choices[0].logprobs for one in e.choices[0].logprobs.content]
    assert [one.token for one in streamed] == [one.token for one in content]


# ------------------------------------------------------------------------------- the other endpoints


def test_completions_go_on_with_the_text_as_it_stands(client: openai.OpenAI, runs: Path) -> None:
    from tunery.data.render import encode_text
    from tunery.generate.engine import generate

    tuned = tunery.load(runs / LONG).tuned
    ids = encode_text("order order", tuned.tokenizer)[0]
    expected = generate(tuned.model, [ids], tuned.task.stop_ids(tuned.tokenizer), Sampling(max_new_tokens=8))[0]
    answer = client.completions.create(model=LONG, prompt="order order", max_tokens=8, logprobs=2)
    choice = answer.choices[0]
    assert choice.text == tuned.tokenizer.decode(expected) and answer.usage is not None
    assert answer.usage.prompt_tokens == len(ids)
    assert choice.logprobs is not None and choice.logprobs.text_offset is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text and choice.logprobs.text_offset[0] == 0
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs or [])
    pieces = client.completions.create(model=LONG, prompt=["order order"], max_tokens=8, stream=True)
    assert "".join(event.choices[0].text for event in pieces) == choice.text


def test_models(client: openai.OpenAI, server: Server) -> None:
    found = {model.id: model for model in client.models.list()}
    assert set(found) == {*MARKS, LONG, "moods"}
    one = client.models.retrieve("moods")
    assert one.object == "model" and one.owned_by == "tunery" and one.created > 1.7e9
    assert one.model_extra is not None and one.model_extra["endpoints"] == ["/v1/classify", "/v1/embeddings"]
    assert "/" not in json.dumps(one.model_extra["base"]), "no path of this machine is told"


def test_classify(server: Server, runs: Path) -> None:
    texts = ["a lovely film", "awful", *(f"parcel {i}" for i in range(40))]
    answer = server.post("/v1/classify", {"model": "moods", "input": texts}).json()
    expected = tunery.load(runs / "moods").predict(texts)
    assert [one["index"] for one in answer["data"]] == list(range(len(texts)))
    for one, known in zip(answer["data"], expected, strict=True):
        assert one["label"] == known.value and one["probabilities"] == pytest.approx(known.probabilities, abs=1e-5)
        assert not one["truncated"]
    assert answer["usage"]["total_tokens"] > len(texts) and answer["model"] == "moods"
    one = server.post("/v1/classify", {"model": "moods", "input": "awful " * 600}).json()["data"]
    assert len(one) == 1 and one[0]["truncated"]
    pair = {"text": "awful", "text_pair": "boring"}
    assert server.post("/v1/classify", {"model": "moods", "input": pair}).status_code == 200


def test_embeddings(client: openai.OpenAI, server: Server) -> None:
    texts = ["a lovely film", "awful", "a lovely film"]
    found = [one.embedding for one in client.embeddings.create(model="moods", input=texts).data]
    plain = client.embeddings.create(model="moods", input=texts, encoding_format="float")
    assert found[0] == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert found[0] == pytest.approx(found[2], abs=1e-6)
    assert found[0] != pytest.approx(found[1], abs=1e-3)
    assert sum(value * value for value in found[1]) == pytest.approx(1, abs=1e-5)
    packed = server.post("/v1/embeddings", {"model": "moods", "input": "awful", "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(found[1], abs=1e-6)
    assert plain.usage.total_tokens > 0


def test_health_and_metrics(server: Server) -> None:
    assert server.get("/health").json() == {"status": "ok"} and server.get("/ready").status_code == 200
    before = server.metric("tunery_requests_total")
    server.get("/v1/models")
    server.get("/nowhere")
    assert server.metric("tunery_requests_total") >= before + 2
    text = server.get("/metrics").text
    for name in ("tunery_first_token_seconds_bucket", "tunery_request_seconds_bucket", "tunery_engine_queued"):
        assert name in text
    assert "nowhere" not in text, "whoever asks can not make new series"
    assert 'tunery_tokens_total{kind="completion",model="alpha"}' in text


# ------------------------------------------------------------------------------------------------ errors


def test_errors_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        say(client, "delta")
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("delta")
    with pytest.raises(openai.BadRequestError) as wrong:
        say(client, "moods")
    assert "/v1/classify" in str(wrong.value)
    with pytest.raises(openai.BadRequestError, match="no encoder"):
        client.embeddings.create(model="alpha", input="x")


CHAT: dict[str, Any] = {"model": "alpha", "messages": ASKED, "max_tokens": 4}
REFUSED = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -5}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 2.5}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"logit_bias": {"50": 100}}, "logit_bias"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"chat_template": "{{ messages }}"}, "chat_template"),
    ({"tempreature": 1}, "tempreature"),
    ({"stop": ["a"] * 5}, None),
    ({"stop": ""}, None),
    ({"top_logprobs": 3}, None),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, None),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, None),
    ({"messages": [{"role": "user", "content": None}]}, None),
    ({"messages": [*ASKED, {"role": "assistant", "content": "I"}]}, None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, None),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "path": "/etc/passwd"}]}]}, None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
    ({"model": "../alpha"}, "model"),
    ({"model": "/etc"}, "model"),
    ({"model": "http://127.0.0.1/"}, "model"),
    ({"model": "\ud800"}, None),
    ({"\ud800": 1}, None),
    ({"messages": [{"role": "user", "content": "order " * 5000}]}, None),
    ({"repetition_penalty": 0.009}, "repetition_penalty"),
    ({"repetition_penalty": 1e-40}, "repetition_penalty"),
    ({"messages": [*ASKED, {"role": "user", "content": None}]}, "messages.1.content"),
    ({"messages": [*ASKED, {"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages.1.content"),
]
PARTS_OF_THE_PROGRAM = ("function-after", "_plain", "constrained", "list[", "AfterValidator", "pydantic")


@pytest.mark.parametrize(("changes", "param"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_is_refused(server: Server, changes: dict[str, Any], param: str | None) -> None:
    body = json.dumps({**CHAT, **changes}).encode("utf-8", "surrogatepass")
    answer = server.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == (404 if "model" in changes and "\ud800" not in changes["model"] else 400), answer.text
    found = error(answer.text)
    assert found["message"] and (param is None or found["param"] == param), found
    for text in ("/etc/passwd", "Traceback", *PARTS_OF_THE_PROGRAM):
        assert text not in answer.text


def test_a_prompt_that_is_too_long(client: openai.OpenAI) -> None:
    for text, most in (("order " * 600, 4), ("order " * 150, 400), ("x" * 10**5, 4)):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="alpha", messages=[{"role": "user", "content": text}], max_tokens=most)
        assert caught.value.code == "context_length_exceeded" and "512" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"n": 1, "tools": None, "logit_bias": {}, "response_format": {"type": "text"}, "presence_penalty": 0.0},
        {"stop": None, "seed": None, "temperature": None, "stream": False, "logprobs": False, "top_p": 1},
        {"messages": [{**ASKED[0], "name": None}, {"role": "assistant", "content": "x", "refusal": None}, ASKED[0]]},
    ],
)
def test_what_asks_for_nothing_is_taken(server: Server, changes: dict[str, Any]) -> None:
    assert server.post("/v1/chat/completions", {**CHAT, **changes}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/", b"", 404),
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/models", b"{}", 405),
        ("POST", "/v1/adapters", b'{"name": "x", "run": "alpha"}', 404),
        ("DELETE", "/v1/adapters/alpha", b"", 404),
        ("POST", "/v1/chat/completions", b"", 400),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[1]", 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe{}", 400),
        ("POST", "/v1/chat/completions", b'{"max_tokens": NaN}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "alpha", "messages": [], "temperature": Infinity}', 400),
        ("POST", "/v1/chat/completions", b"9" * 5000, 400),
        ("POST", "/v1/embeddings", b'{"model": "moods", "input": []}', 400),
        ("POST", "/v1/embeddings", b'{"model": "moods", "input": [1, 2]}', 400),
        ("POST", "/v1/embeddings", b'{"model": "moods", "input": " "}', 400),
        ("POST", "/v1/embeddings", b'{"model": "moods", "input": "x", "dimensions": 7}', 400),
        ("POST", "/v1/completions", b'{"model": "alpha", "prompt": ["a", "b"]}', 400),
        ("POST", "/v1/completions", b'{"model": "alpha", "prompt": [1, 2]}', 400),
        ("POST", "/v1/completions", b'{"model": "alpha", "prompt": "a", "echo": true}', 400),
        ("POST", "/v1/classify", b'{"model": "alpha", "input": "a"}', 400),
    ],
)
def test_every_error_has_openais_shape(server: Server, method: str, path: str, content: bytes, status: int) -> None:
    import httpx

    headers = {"content-type": "application/json"} if content else {}
    answer = httpx.request(method, server.url + path, content=content, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    error(answer.text)


def test_a_page_elsewhere_cannot_ask(server: Server) -> None:
    """A browser sends forms and plain text anywhere without asking first; and gets no leave for more."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        content = json.dumps(CHAT).encode()
        answer = server.post("/v1/chat/completions", content=content, headers={"content-type": kind})
        assert answer.status_code == 400
    answer = server.get("/v1/models", headers={"origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


# -------------------------------------------------------------------------------------------- many at once


def test_each_adapter_answers_with_its_own_mark_under_load(server: Server) -> None:
    client = server.client()

    def one(number: int) -> bool:
        name = list(MARKS)[number % len(MARKS)]
        text = [{"role": "user", "content": f"{'hello ' * (number % 7)}{number}?"}]
        found = client.chat.completions.create(model=name, messages=text, max_tokens=3 + number % 9)  # type: ignore[arg-type]
        return text_of(found).startswith(MARKS[name][: 3 + number % 9]) and found.system_fingerprint == name

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(96)))
    server.idle()
