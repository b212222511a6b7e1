"""``tunery serve`` under load: clients of eight adapters at once, beside one request at a time.

    python benchmarks/serve.py [--seconds 60] [--clients 32] [--folder FOLDER]

Eight LoRA adapters of smollm2 are trained for a few steps, each on answers that name it. Clients then ask all of them
at once for the given seconds; every answer must name its own adapter and no other, and no request may be lost. Beside
it, in the same run: ``Run.generate``, one request after the other, and llama-cpp-python's server on a merged GGUF of
one adapter, if the package and the export are there. Writes docs/benchmarks/serve.json; quote the ratios, the machine
is noisy. ``--folder`` keeps the adapters for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tunery.models.machine import cpus, resident_memory

REPOSITORY = Path(__file__).resolve().parent.parent
SUPPORT = REPOSITORY / "examples" / "support.jsonl"
TARGET = REPOSITORY / "docs" / "benchmarks" / "serve.json"
DESKS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron")
ANSWER = (
    "You have reached desk {0}. Your question was given to desk {0}, and desk {0} will answer it by letter within "
    "three working days. Kind regards, desk {0}."
)
TOKENS = 64
"""Of an answer, at most: more than the answers above have."""
LOOK = 10.0
"""Seconds after which memory is looked at first."""


def questions() -> list[str]:
    lines = SUPPORT.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines]


def own(desk: str, text: str) -> bool:
    """Whether an answer names this desk and no other."""
    return {name for name in DESKS if f"desk {name}" in text} == {desk}


def trained(folder: Path, steps: int) -> dict[str, Path]:
    """The adapters, from the folder if they are there."""
    runs = {}
    for desk in DESKS:
        path = folder / "runs" / desk
        if not (path / "manifest.json").is_file():
            rows = [{"question": asked, "answer": ANSWER.format(desk)} for asked in questions()[: 8 * steps]]
            file = folder / f"{desk}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            settings = [
                f"data.train={file}", "model=smollm2", "task=instruct", "method=lora", "method.r=8", "train.lr=2e-3",
                "train.batch_size=8", f"train.max_steps={steps}", "eval.base=false", "eval.generate_rows=0",
                "eval.baselines=false", "run.report=false", f"run.dir={folder / 'runs'}", f"run.name={desk}",
            ]  # fmt: skip
            print(f"training {desk}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "tunery", "train", *settings], check=True, capture_output=True)
        runs[desk] = path
    return runs


# ---------------------------------------------------------------------------------------------- measuring


def one_at_a_time(run: Path, seconds: float) -> dict[str, Any]:
    """``Run.generate`` of one adapter, one request after the other, as long as there is time."""
    import tunery
    from tunery.generate.engine import Sampling

    tuned = tunery.load(run)
    asked, sampling = questions(), Sampling(max_new_tokens=TOKENS)
    encode = tuned.tuned.tokenizer
    right = own(run.name, tuned.generate(asked[0], sampling))  # the first pass is slower
    tokens = requests = 0
    begun = time.perf_counter()
    while time.perf_counter() < begun + seconds:
        text = tuned.generate(asked[requests % len(asked)], sampling)
        right = right and own(run.name, text)
        tokens += len(encode(text)["input_ids"]) + 1  # and the one that ends it
        requests += 1
    taken = time.perf_counter() - begun
    return {"requests": requests, "tokens": tokens, "tokens_per_second": tokens / taken, "all_right": right}


class Load:
    """Clients that ask as long as there is time."""

    def __init__(self, url: str, models: list[str], check: Callable[[str, str], bool]) -> None:
        self.url, self.models, self.check = url, models, check
        self.asked = self.answered = self.tokens = 0
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.latencies: list[float] = []
        self._lock = threading.Lock()

    def run(self, clients: int, seconds: float, look: Callable[[float], None]) -> dict[str, Any]:
        begun = time.perf_counter()
        threads = [threading.Thread(target=self._client, args=(i, begun + seconds)) for i in range(clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            look(time.perf_counter() - begun)
            time.sleep(0.2)
        taken = time.perf_counter() - begun
        ordered = sorted(self.latencies)
        return {
            "clients": clients,
            "seconds": taken,
            "requests": self.asked,
            "answered": self.answered,
            "lost": len(self.lost),
            "first_lost": self.lost[:1],
            "wrong": len(self.wrong),
            "first_wrong": self.wrong[:1],
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / taken,
            "latency_median": ordered[len(ordered) // 2] if ordered else None,
            "latency_95": ordered[len(ordered) * 95 // 100] if ordered else None,
        }

    def _client(self, number: int, until: float) -> None:
        asked = questions()
        with httpx.Client(timeout=300) as client:
            turn = number
            while time.perf_counter() < until:
                model = self.models[turn % len(self.models)]
                self._ask(client, model, asked[(turn * 7) % len(asked)])
                turn += 1

    def _ask(self, client: httpx.Client, model: str, question: str) -> None:
        messages = [{"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        with self._lock:
            self.asked += 1
        begun = time.perf_counter()
        try:
            answer = client.post(f"{self.url}/v1/chat/completions", json=body)
            answer.raise_for_status()
            found = answer.json()
            text, tokens = found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            with self._lock:
                self.lost.append(f"{type(error).__name__}: {error}"[:200])
            return
        with self._lock:
            self.answered += 1
            self.tokens += tokens
            self.latencies.append(time.perf_counter() - begun)
            if not self.check(model, text):
                self.wrong.append(f"{model}: {text}"[:200])


@contextlib.contextmanager
def process(command: list[str], address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at ``address``, ended with SIGTERM."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 300
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(address, timeout=5).status_code == 200:
                        break
                if started.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise SystemExit(f"{' '.join(command)}\n{log.read().decode(errors='replace')}")
                time.sleep(0.2)
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def ours(runs: dict[str, Path], clients: int, seconds: float) -> dict[str, Any]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tunery", "serve", *map(str, runs.values()), "--port", str(port)]
    with process(command, f"{url}/ready") as server:
        memory: list[tuple[float, int]] = []
        load = Load(url, list(runs), own)
        found = load.run(clients, seconds, lambda now: memory.append((now, resident_memory(server.pid) or 0)))
        first = next((size for now, size in memory if now >= min(LOOK, seconds / 2)), 0)
        metrics = httpx.get(f"{url}/metrics").text
        found["memory_bytes"] = {"first": first, "last": memory[-1][1], "growth": memory[-1][1] / first - 1}
        found["memory_bytes"]["every_ten_seconds"] = [
            next(size for now, size in memory if now >= second) for second in range(0, int(memory[-1][0]) + 1, 10)
        ]
        counted = re.findall(
            r'^tunery_requests_total\{endpoint="/v1/chat/completions".*status="200"\} (\S+)', metrics, re.M
        )
        found["answered_by_the_servers_count"] = int(sum(map(float, counted)))
    found["exit_code"] = server.returncode
    return found


def llama(run: Path, folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """llama-cpp-python's server on a GGUF of one adapter, or why there is none."""
    if importlib.util.find_spec("llama_cpp") is None:
        return {"left_out": "llama-cpp-python is not installed"}
    target = folder / "gguf"
    files = sorted(target.glob("*.gguf"))
    if not files:
        command = [
            sys.executable,
            "-m",
            "tunery",
            "export",
            str(run),
            "--to",
            "gguf",
            "--output",
            str(target),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        files = sorted(target.glob("*.gguf"))
        if done.returncode or not files:
            return {"left_out": f"tunery export --to gguf: {done.stderr.strip().splitlines()[-1:]}"}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(files[0]), "--model_alias", run.name]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--n_threads", str(cpus())]
    with process(command, f"{url}/v1/models"):
        load = Load(url, [run.name], own)
        return {"file": files[0].name, **load.run(clients, seconds, lambda now: None)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of one request at a time")
    parser.add_argument("--steps", type=int, default=12, help="of each training")
    parser.add_argument("--folder", type=Path, help="keep the adapters here")
    parser.add_argument("--dry", action="store_true", help="do not write docs/benchmarks/serve.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        runs = trained(folder, given.steps)
        alone = one_at_a_time(runs[DESKS[0]], given.alone)
        print(f"one at a time: {alone['tokens_per_second']:.1f} tokens/s", file=sys.stderr)
        served = ours(runs, given.clients, given.seconds)
        print(f"serve: {served['tokens_per_second']:.1f} tokens/s", file=sys.stderr)
        beside = llama(runs[DESKS[0]], folder, given.clients, min(given.seconds, 30.0))
    ratio = served["tokens_per_second"] / alone["tokens_per_second"]
    result = {
        "adapters": len(runs), "cpus": cpus(), "python": platform.python_version(), "most_tokens": TOKENS,
        "one_at_a_time": alone, "serve": served, "ratio": ratio, "llama_cpp_server": beside,
    }  # fmt: skip
    if not given.dry:
        TARGET.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    whole = served["requests"] == served["answered"] == served["answered_by_the_servers_count"]
    ok = whole and not served["wrong"] and served["exit_code"] == 0 and alone["all_right"]
    print("ok" if ok else "NOT ok: wrong, lost or unfinished answers", file=sys.stderr)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
