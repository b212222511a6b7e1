"""What ``tunery race`` must show, on real data: each part prints what was asked for and what was found.

    python benchmarks/decide_race.py [language] [time] [few] [leak] [--work FOLDER] [--workers N]

language: on Chinese hotel reviews with an English encoder a baseline without a model wins, and a base that knows
    Chinese is recommended.
time: ten minutes on sst2 with minilm end within eleven, and the winner is within .01 of the best long single run.
few: on 32 rows of sst2 with smollm2 a few-shot method wins, or it is a tie.
leak: validation rows planted among the training rows are found.

Nothing is typed in: the best long run is the one in docs/benchmarks/accuracy.json. Writes
docs/benchmarks/decide_race.json; parts that are not run keep what stands there.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunery.models.machine import cpus

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
TARGET = REPOSITORY / "docs" / "benchmarks" / "decide_race.json"
ACCURACY = REPOSITORY / "docs" / "benchmarks" / "accuracy.json"
SST2, HOTEL = "sst2_en_sentiment", "chnsenticorp_hotel_zh_sentiment"
FEW_SHOT = ("cloze", "prompt", "p_tuning", "few-shot", "zero-shot")


def race(budget: str, workers: int | None, *keys: str) -> dict[str, Any]:
    """→ what the race prints as JSON, with the wall time of the whole command as ``wall``."""
    command = [sys.executable, "-m", "tunery", "race", "--budget", budget, "--json", *keys]
    if workers:
        command += ["--workers", str(workers)]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stdout}")
    return {**json.loads(done.stdout), "wall": time.monotonic() - began}


def files(name: str, *splits: str) -> list[str]:
    return [f"data.{split}={DATA / name / split}.jsonl" for split in splits]


def said(found: dict[str, Any]) -> dict[str, Any]:
    """What of a race is worth keeping."""
    rows = [
        {key: row[key] for key in ("name", "kind", "state", "score", "test", "share", "seconds", "reason")}
        for row in found["table"]
    ]
    keys = ("wall", "budget", "recommendation", "winner", "best", "tied", "warnings", "few_rows", "leaks")
    return {**{key: found[key] for key in keys}, "table": rows, "shuffled": found["controls"]["shuffled"]}


def language(folder: Path, workers: int | None) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    keys = [*files(HOTEL, "train", "validation", "test"), "model=minilm", "task=classify", "train.batch_size=32"]
    found = race("10m", workers, *keys, f"run.dir={folder}", "run.name=language")
    kinds = {row["name"]: row["kind"] for row in found["table"]}
    text = found["recommendation"]
    return found, [
        ("a baseline without a model is recommended", kinds.get(found["winner"]) == "baseline"),
        ("it says that it beats every tuned entrant", "beats every tuned entrant" in text),
        ("it recommends a base that knows Chinese", "a base that knows Chinese" in text),
        ("shuffled labels: learns nothing", found["controls"]["shuffled"]["verdict"] == "learns nothing"),
    ]


def in_time(folder: Path, workers: int | None) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    keys = [*files(SST2, "train", "validation", "test"), "model=minilm", "task=classify", "train.batch_size=32"]
    found = race("10m", workers, *keys, f"run.dir={folder}", "run.name=time")
    best = best_long_run()
    winner = next((row for row in found["table"] if row["name"] == found["winner"]), {})
    reached = winner.get("test") or 0.0
    return found, [
        (f"ended after {found['wall']:.0f} s, at most 660", found["wall"] <= 660),
        (f"the winner has {reached:.4f} on the test rows, the best long run {best:.4f}", reached >= best - 0.01),
        ("shuffled labels: learns nothing", found["controls"]["shuffled"]["verdict"] == "learns nothing"),
    ]


def best_long_run() -> float:
    """Highest median test accuracy of minilm on sst2 (``make real``)."""
    found = json.loads(ACCURACY.read_text(encoding="utf-8"))
    return max(float(v["test_median"]) for k, v in found.items() if k.startswith("sst2-") and "cloze" not in k)


def few(folder: Path, workers: int | None) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    lines = (DATA / SST2 / "train.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(1).shuffle(lines)
    chosen: dict[str, list[str]] = {}
    for line in lines:
        rows = chosen.setdefault(json.loads(line)["label"], [])
        if len(rows) < 16:
            rows.append(line)
    train = folder / "few.jsonl"
    train.write_text("".join(f"{line}\n" for rows in chosen.values() for line in rows), encoding="utf-8")
    lines = (DATA / SST2 / "test.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    test = folder / "few-test.jsonl"
    test.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    keys = [f"data.train={train}", f"data.test={test}", "model=smollm2", "task=classify"]
    found = race("15m", workers, *keys, f"run.dir={folder}", "run.name=few")
    winner, text = str(found["winner"]), found["recommendation"]
    return found, [
        (f"{winner} is a few-shot method, or it is a tie", winner.startswith(FEW_SHOT) or text.startswith("Tie")),
        ("several seeds and splits", any(row["seeds"] > 1 for row in found["table"])),
    ]


def leak(folder: Path, workers: int | None) -> tuple[dict[str, Any], list[tuple[str, bool]]]:
    parts = {s: (DATA / SST2 / f"{s}.jsonl").read_text(encoding="utf-8").splitlines() for s in ("train", "validation")}
    train, held = folder / "leaky.jsonl", folder / "leaky-validation.jsonl"
    train.write_text("\n".join(parts["train"][:2000] + parts["validation"][:300]) + "\n", encoding="utf-8")
    held.write_text("\n".join(parts["validation"][:300]) + "\n", encoding="utf-8")
    keys = [f"data.train={train}", f"data.validation={held}", "model=minilm", "task=classify", "data.on_leak=warn"]
    found = race("4m", workers, "--methods", "lora", *keys, f"run.dir={folder}", "run.name=leak")
    return found, [
        (f"the ledger finds {found['leaks']['rows']} rows", found["leaks"]["rows"] >= 300),
        (found["controls"]["shuffled"]["verdict"], "something leaks" in found["controls"]["shuffled"]["verdict"]),
    ]


Part = Callable[[Path, int | None], tuple[dict[str, Any], list[tuple[str, bool]]]]
PARTS: dict[str, Part] = {"language": language, "time": in_time, "few": few, "leak": leak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--work", type=Path, help="folder of the races; default: a temporary one")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    kept = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.is_file() else {}
    failed = False
    for name in arguments.parts or PARTS:
        folder = Path(tempfile.mkdtemp(prefix=f"race-{name}-", dir=arguments.work))
        found, checks = PARTS[name](folder, arguments.workers)
        print(
            f"\n{name}: {found['recommendation']}\n  {found['wall']:.0f} s of {found['budget']:.0f} s, {found['race']}"
        )
        for text, right in checks:
            print(f"  {'ok' if right else 'NOT'}  {text}")
            failed |= not right
        kept[name] = said(found) | {"checks": [{"what": text, "ok": right} for text, right in checks], "cpus": cpus()}
        TARGET.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
