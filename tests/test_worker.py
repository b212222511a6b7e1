"""The thread that serves runs: each request gets its own run's answer, whatever is loaded or broken meanwhile."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from small import labelled, lively, one_thread, questions, train, write  # noqa: F401
from tunery.errors import ModelError
from tunery.generate.engine import generate
from tunery.run.run import Run
from tunery.serve.worker import Draining, Finish, NoSuchModel, QueueFull, Sampling, Token, Worker

PATIENCE = 60.0


@pytest.fixture(scope="module")
def runs(tiny_llama: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Eight LoRA runs, one with a prefix and one fully trained over one base, and a classifier."""
    folder = tmp_path_factory.mktemp("served")
    base = lively(tiny_llama, folder / "base")
    data = write(folder / "rows.jsonl", questions(12))
    settings = {"task": "instruct", "train__max_steps": 1, "train__lr": 0.02, "eval__baselines": False}
    found = {
        method: train(folder / "runs", base, data, method=method, run__name=method, **settings).path
        for method in ("lora", "prefix", "full")
    }
    lora = found.pop("lora")
    for i in range(8):
        found[f"lora{i}"] = perturbed(lora, folder / "runs" / f"lora{i}", i)
    sorting = {"task": "classify", "train__max_steps": 1, "eval__baselines": False}
    data = write(folder / "labels.jsonl", labelled(12))
    found["moods"] = train(folder / "runs", tiny_bert, data, method="lora", run__name="moods", **sorting).path
    return found


def perturbed(run: Path, copy: Path, seed: int) -> Path:
    """A copy of a LoRA run that answers otherwise."""
    shutil.copytree(run, copy)
    file = copy / "model" / "adapter_model.safetensors"
    torch.manual_seed(seed)
    save_file({k: torch.randn_like(t) if "lora_B" in k else t for k, t in load_file(file).items()}, file)
    return copy


class Asked:
    """A request, and what came of it."""

    def __init__(self, worker: Worker, name: str, prompt: list[int], sampling: Sampling, stop: Any = ()) -> None:
        self.name, self.prompt, self.sampling, self.stop = name, prompt, sampling, stop
        self.tokens: list[Token] = []
        self.ends: list[Finish] = []
        self.threads: set[str] = set()
        self.over = threading.Event()
        self.cancel = worker.submit(name, prompt, sampling, stop, self._token, self._end)

    def _token(self, token: Token) -> None:
        assert not self.ends
        self.threads.add(threading.current_thread().name)
        self.tokens.append(token)

    def _end(self, finish: Finish) -> None:
        self.ends.append(finish)
        self.over.set()

    def answer(self) -> list[int]:
        assert self.over.wait(PATIENCE)
        return [token.id for token in self.tokens]

    def reason(self) -> str:
        assert self.over.wait(PATIENCE)
        return self.ends[0].reason


def alone(path: Path, asked: Asked) -> list[int]:
    return generate(Run(path).tuned.model, [asked.prompt], tuple(asked.stop), asked.sampling)[0]


@pytest.fixture
def serving(runs: dict[str, Path]) -> Iterator[Any]:
    made: list[Worker] = []

    def start(*names: str, **settings: int) -> Worker:
        made.append(Worker({name: runs[name] for name in names}, **settings))
        made[-1].start()
        return made[-1]

    yield start
    for worker in made:
        worker.stop(0)


def test_every_run_answers_for_itself(serving: Any, runs: dict[str, Path]) -> None:
    """32 requests to eight adapters in one batch, and to two runs that cannot share it."""
    names = [*(f"lora{i}" for i in range(8)), "prefix", "full"]
    worker = serving(*names, max_batch=6)
    asked = []
    for i in range(32):
        warm = Sampling(5 + i % 7, temperature=1.0 if i % 4 == 3 else 0.0, seed=i)
        asked.append(Asked(worker, names[i % 10], [5, 6, 7, 8 + i % 3][: 1 + i % 4], warm))
        time.sleep(0.002 * (i % 3))
    answers = [one.answer() for one in asked]
    models = {name: Run(runs[name]).tuned.model for name in names}
    for one, answer in zip(asked, answers, strict=True):
        assert answer == generate(models[one.name], [one.prompt], (), one.sampling)[0], one.name
        assert one.ends == [Finish("length")] and one.threads == {"tunery-worker"}
    assert len({tuple(generate(models[name], [[5, 6, 7]], (), Sampling(9))[0]) for name in names}) > 8
    lanes = {id(entry.lane) for entry in worker._entries.values()}
    assert len(lanes) == 3, "plain LoRA runs share one batch"
    bases = [served.tuned.base.weights for served in worker.models().values()]
    assert len(set(map(id, bases))) == 1
    stats = worker.stats()
    assert stats["requests_total"] == stats["stopped_total"] == 32 and stats["queued"] == stats["running"] == 0
    assert stats["tokens_total"] == sum(map(len, answers))


def test_what_is_known_of_a_run(serving: Any, runs: dict[str, Path]) -> None:
    worker = serving("lora0", "moods")
    served = worker.models()["moods"]
    assert (served.name, served.task, served.method, served.output) == ("moods", "classify", "lora", "logits")
    assert served.path == runs["moods"] and served.run.tuned is served.tuned
    found = worker.call("moods", lambda one: (one.run.predict(["great"]), threading.current_thread().name)).result(
        PATIENCE
    )
    assert found == (Run(runs["moods"]).predict(["great"]), "tunery-worker")
    assert worker.call("moods", lambda _: torch.get_num_threads()).result(PATIENCE) == torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        worker.call("moods", lambda _: 1 // 0).result(PATIENCE)
    with pytest.raises(NoSuchModel, match="writes no text"):
        worker.submit("moods", [5], Sampling(1), (), print, print)
    with pytest.raises(NoSuchModel, match="lora0, moods"):
        worker.submit("other", [5], Sampling(1), (), print, print)


def test_a_swap_under_load_mixes_nothing(serving: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    """Requests submitted before it get the old run's answer, those after it the new one's."""
    worker = serving("lora0", "lora1", max_batch=3)
    old = [Asked(worker, ("lora0", "lora1")[i % 2], [5, 6 + i], Sampling(25)) for i in range(8)]
    served = worker.load("lora0", runs["lora5"]).result(PATIENCE)
    assert served.path == runs["lora5"] and worker.models()["lora0"] is served
    new = [Asked(worker, ("lora0", "lora1")[i % 2], [5, 6 + i], Sampling(25)) for i in range(8)]
    for group, first in ((old, "lora0"), (new, "lora5")):
        for one in group:
            assert one.answer() == alone(runs[first if one.name == "lora0" else "lora1"], one)
    worker.load("lora0", runs["full"]).result(PATIENCE)
    last = Asked(worker, "lora0", [5, 6], Sampling(25))
    assert last.answer() == alone(runs["full"], last)
    lora = worker._entries["lora1"].lane.group.lora
    assert len(lora.adapters) == 1, "what is served no more has left the batch"


def test_a_damaged_run_leaves_the_old_one_serving(serving: Any, runs: dict[str, Path], tmp_path: Path) -> None:
    worker = serving("lora0")
    broken = shutil.copytree(runs["lora1"], tmp_path / "broken")
    file = broken / "model" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-500])
    unlike = perturbed(runs["lora1"], tmp_path / "unlike", 3)
    file = unlike / "model" / "adapter_model.safetensors"
    save_file({k: t[:1].contiguous() for k, t in load_file(file).items()}, file)
    one = Asked(worker, "lora0", [5, 6], Sampling(30))
    for path in (broken, unlike, tmp_path / "missing", tmp_path):
        with pytest.raises(Exception) as error:
            worker.load("lora0", path).result(PATIENCE)
        assert isinstance(error.value, ModelError), error.value
    again = Asked(worker, "lora0", [5, 6], Sampling(30))
    assert one.answer() == again.answer() == alone(runs["lora0"], one)


def test_unloaded_and_loaded_again(serving: Any, runs: dict[str, Path]) -> None:
    worker = serving("lora0", "prefix")
    one = Asked(worker, "prefix", [5, 6], Sampling(30))
    worker.unload("prefix").result(PATIENCE)
    assert list(worker.models()) == ["lora0"]
    assert one.answer() == alone(runs["prefix"], one)
    with pytest.raises(NoSuchModel):
        worker.unload("prefix")
    worker.load("other", runs["prefix"]).result(PATIENCE)
    two = Asked(worker, "other", [5, 6], Sampling(30))
    assert two.answer() == one.answer()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_model_that_was_asked_is_freed_when_it_goes(serving: Any, runs: dict[str, Path], swapped: bool) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: tunery[serve]")
    from starlette.testclient import TestClient

    from tunery.serve import app
    from tunery.serve.state import Serving

    worker = serving("lora0", "full")
    state = Serving(worker, hosts=frozenset({"testserver"}))
    body = {"model": "full", "messages": [{"role": "user", "content": "parcel?"}], "max_tokens": 3}
    with TestClient(app.create(state)) as client:
        for _ in range(2):
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    served = worker.models()["full"]
    stops = state.stop_ids(served)
    assert stops == served.tuned.task.stop_ids(served.tuned.tokenizer)
    watched = [weakref.ref(one) for one in (served.run, served.tuned.model)]
    del served
    (worker.load("full", runs["lora1"]) if swapped else worker.unload("full")).result(PATIENCE)
    for _ in range(40):  # threads that answered may take a moment to let go
        worker.call("lora0", lambda _: gc.collect()).result(PATIENCE)
        if not any(one() for one in watched):
            break
        time.sleep(0.05)
    assert [one() for one in watched] == [None, None]
    assert Asked(worker, "lora0", [5, 6], Sampling(3)).reason() == "length"


def held(worker: Worker, name: str = "lora0") -> tuple[threading.Event, Future[Any]]:
    """Keep the thread busy until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def wait(_: Any) -> None:
        begun.set()
        assert go.wait(PATIENCE)

    future = worker.call(name, wait)
    assert begun.wait(PATIENCE)
    return go, future


def test_a_full_queue_refuses_and_says_when_to_come_back(serving: Any) -> None:
    worker = serving("lora0", max_batch=2, max_queue=3)
    go, _ = held(worker)
    asked = [Asked(worker, "lora0", [5], Sampling(3)) for _ in range(3)]
    with pytest.raises(QueueFull) as error:
        worker.submit("lora0", [5], Sampling(3), (), print, print)
    assert 1 <= error.value.retry_after <= 60
    assert worker.stats()["queued"] == 3 and worker.stats()["refused_total"] == 1
    go.set()
    assert [one.reason() for one in asked] == ["length"] * 3
    assert Asked(worker, "lora0", [5], Sampling(3)).reason() == "length"


def test_cancelled_before_and_while_it_runs(serving: Any, runs: dict[str, Path]) -> None:
    worker = serving("lora0", max_batch=1)
    go, _ = held(worker)
    first, second, third = (Asked(worker, "lora0", [5, 6], Sampling(400)) for _ in range(3))
    second.cancel()
    go.set()
    assert second.reason() == "cancelled" and not second.tokens
    first.cancel()
    first.cancel()
    assert first.reason() == "cancelled" and len(first.tokens) < 400
    assert third.answer() == alone(runs["lora0"], third)
    third.cancel()
    assert worker.call("lora0", lambda _: 1).result(PATIENCE) == 1
    assert third.ends == [Finish("length")] and first.ends == [Finish("cancelled")]
    assert worker.stats()["cancelled_total"] == 2


def test_an_error_ends_what_it_belongs_to_and_nothing_else(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = serving("lora0", "prefix")
    bad = Asked(worker, "lora0", [5, 10**6], Sampling(3))  # no such token
    good = [Asked(worker, name, [5, 6], Sampling(20)) for name in ("lora0", "prefix")]
    assert bad.reason() == "error" and bad.ends[0].problem
    assert [one.reason() for one in good] == ["length"] * 2

    def broken(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    model = worker._entries["prefix"].lane.group.model
    monkeypatch.setattr(model, "forward", broken)
    asked = [Asked(worker, name, [5, 6], Sampling(20)) for name in ("lora0", "prefix", "prefix")]
    assert [one.reason() for one in asked] == ["length", "error", "error"]
    assert "memory" in asked[1].ends[0].problem
    monkeypatch.undo()
    assert Asked(worker, "prefix", [5, 6], Sampling(20)).reason() == "length"
    assert worker.stats()["errors_total"] == 3


def test_a_reader_that_fails_ends_its_own_request(serving: Any) -> None:
    worker = serving("lora0")
    over = threading.Event()

    def fails(_: Any) -> None:
        raise RuntimeError("the client is gone")

    def end(_: Finish) -> None:
        over.set()
        raise RuntimeError("and does not want to know")

    worker.submit("lora0", [5], Sampling(50), (), fails, end)
    assert over.wait(PATIENCE)
    assert Asked(worker, "lora0", [5, 6], Sampling(20)).reason() == "length"


def test_stopping_finishes_what_runs(serving: Any) -> None:
    worker = serving("lora0", "prefix", max_batch=2)
    asked = [Asked(worker, ("lora0", "prefix")[i % 2], [5], Sampling(20)) for i in range(8)]
    assert worker.stop(PATIENCE) == 0
    assert [one.reason() for one in asked] == ["length"] * 8
    for refused in (
        lambda: worker.submit("lora0", [5], Sampling(1), (), print, print),
        lambda: worker.call("lora0", print),
        lambda: worker.load("lora0", Path("x")),
        lambda: worker.unload("lora0"),
    ):
        with pytest.raises(Draining):
            refused()
    assert worker.stop(1) == 0


def test_stopping_cuts_off_what_takes_too_long(serving: Any) -> None:
    worker = serving("lora0", max_batch=1)
    asked = [Asked(worker, "lora0", [5], Sampling(450)) for _ in range(3)]
    assert worker.stop(0) == 3
    assert [one.reason() for one in asked] == ["error"] * 3
    assert "stopped" in asked[0].ends[0].problem


def test_a_run_that_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        Worker({"x": tmp_path / "nothing"}).start()
