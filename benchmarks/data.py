"""``tunery check`` on a million rows, and encoding beside ``datasets.map``, in one run.

    python benchmarks/data.py [--rows 1000000] [--encode 20000] [--repeats 3]

The rows are made of the alpaca set's, each numbered so that no two are equal. ``datasets`` is needed for the
comparison only: pip install datasets. Its row-by-row recipe is the usual one (the text with and without the answer
is tokenised, so that the question can be masked); the batched one tokenises a thousand texts a call. Prints a table
and writes docs/benchmarks/data.json; quote the ratios, the machine is noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
ALPACA = REPOSITORY.parent / "shared" / "data" / "alpaca_en_instruct" / "train.jsonl"
TARGET = REPOSITORY / "docs" / "benchmarks" / "data.json"


def make(path: Path, rows: int) -> None:
    known = [json.loads(line) for line in ALPACA.open(encoding="utf-8")]
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            row = known[number % len(known)]
            stream.write(json.dumps({**row, "instruction": f"{number}. {row['instruction']}"}, ensure_ascii=False))
            stream.write("\n")


def check(path: Path) -> dict[str, Any]:
    """A whole process, from its start to its end."""
    arguments = [f"data.train={path}", "model=smollm2", "task=instruct", "--json"]
    command = [sys.executable, "-m", "tunery", "check", *arguments]
    begun = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - begun
    found = json.loads(done.stdout)
    return {
        "rows": found["rows_read"],
        "bytes": path.stat().st_size,
        "seconds": seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "estimated_from": found["details"]["train"]["estimated_from"],
        "findings": len(found["findings"]),
    }


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def encode(path: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds of each way, the median; in turn, so that all meet the same moments of the machine."""
    os.environ |= {"HF_DATASETS_CACHE": str(folder / "datasets"), "HF_DATASETS_OFFLINE": "1"}
    import datasets

    from tunery import config
    from tunery.run.check import inspect
    from tunery.run.encode import encode_split

    datasets.disable_progress_bars()
    found = inspect(config.load(None, [f"data.train={path}", "model=smollm2", "task=instruct", "data.holdout=0.001"]))
    rows, tokenizer = found.dataset.splits["train"], found.base.tokenizer
    turns = [[{"role": m.role, "content": m.content} for m in example.messages] for example in rows]
    table = datasets.Dataset.from_list([{"messages": messages} for messages in turns])

    def one(row: dict[str, Any]) -> dict[str, Any]:
        asked = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        question = tokenizer(asked, truncation=True, max_length=found.length)
        encoded = tokenizer(text, truncation=True, max_length=found.length)
        masked = len(question["input_ids"])
        return {**encoded, "labels": [-100] * masked + encoded["input_ids"][masked:]}

    def many(part: dict[str, Any]) -> dict[str, Any]:
        texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in part["messages"]]
        encoded = tokenizer(texts, truncation=True, max_length=found.length)
        return {**encoded, "labels": [list(ids) for ids in encoded["input_ids"]]}

    def ours() -> None:
        encode_split(
            "train", rows, found.task, tokenizer, found.config.data, found.length, _NoLedger(), key=str(time.time())
        )

    ways: dict[str, Callable[[], Any]] = {
        "tunery": ours,
        "map_rows": lambda: table.map(one, remove_columns=["messages"], load_from_cache_file=False),
        "map_batched": lambda: table.map(many, batched=True, remove_columns=["messages"], load_from_cache_file=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            seconds[name].append(timed(work))
    return {"rows": len(rows), **{name: statistics.median(values) for name, values in seconds.items()}}


class _NoLedger:
    """Marks are not what is measured, and rows are encoded several times."""

    def mark(self, *_: Any, **__: Any) -> None: ...

    def move(self, *_: Any, **__: Any) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--encode", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large, small = folder / "large.jsonl", folder / "small.jsonl"
        make(large, args.rows)
        found: dict[str, Any] = {"check": check(large)}
        print(json.dumps(found["check"]), flush=True)
        large.unlink()
        make(small, args.encode)
        found["encode"] = encode(small, folder, args.repeats)
    ways = found["encode"]
    for way in ("map_rows", "map_batched"):
        ratio = ways[way] / ways["tunery"]
        print(f"{way}: {ways[way]:.1f} s, tunery {ways['tunery']:.1f} s: {ratio:.2f} times as fast")
    TARGET.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
