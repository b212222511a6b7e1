"""Test accuracy of the methods on real data, median of three seeds, settings chosen on validation rows.

    python benchmarks/accuracy.py [--only sst2-lora …] [--seeds 1 2 3] [--work FOLDER]

Each experiment names a few settings. Each is trained once, with the first seed and without the test rows being
read; the one with the best validation accuracy is then trained with every seed, and only those runs are scored on
the test rows. Finished runs in the work folder are not trained again. Writes docs/benchmarks/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
TARGET = REPOSITORY / "docs" / "benchmarks" / "accuracy.json"

SST2, BANKING, HOTEL = "sst2_en_sentiment", "banking77_en_intent", "chnsenticorp_hotel_zh_sentiment"
EXPERIMENTS: dict[str, tuple[str, float, str, list[str]]] = {
    "sst2-full": (SST2, 0.87, "method=full", ["lr=5e-5 epochs=2", "lr=1e-4 epochs=2", "lr=2e-4 epochs=2"]),
    "sst2-lora": (SST2, 0.865, "method=lora", ["lr=5e-4 epochs=1", "lr=1e-3 epochs=2", "lr=2e-3 epochs=2"]),
    "sst2-last2": (
        SST2, 0.85, "method=freeze method.layers=2", ["lr=1e-4 epochs=2", "lr=2e-4 epochs=3", "lr=5e-4 epochs=3"],
    ),
    "sst2-head": (
        SST2, 0.79, "method=freeze method.layers=0", ["lr=1e-2 epochs=3", "lr=3e-2 epochs=3"],
    ),
    "banking77-lora": (BANKING, 0.90, "method=lora", ["lr=2e-3 epochs=4", "lr=4e-3 epochs=4"]),
    "banking77-full": (BANKING, 0.90, "method=full", ["lr=2e-4 epochs=4", "lr=4e-4 epochs=4"]),
}  # fmt: skip
"""Name → data set, accuracy asked for, method, candidates."""


def tunery(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tunery", *arguments, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def train(name: str, settings: str, seed: int, work: Path) -> dict[str, Any]:
    """One training, which never sees the test rows → the run's manifest."""
    folder, _, method, _ = EXPERIMENTS[name]
    run = work / f"{name}-{settings.replace(' ', '-').replace('=', '')}-{seed}"
    if not _completed(run):
        tunery(
            "train", "model=minilm", "task=classify", "train.batch_size=32", f"train.seed={seed}",
            *(f"data.{split}={DATA / folder / split}.jsonl" for split in ("train", "validation")),
            f"run.dir={work}", f"run.name={run.name}", *method.split(), *(f"train.{s}" for s in settings.split()),
        )  # fmt: skip
    return {"path": str(run), **json.loads((run / "manifest.json").read_text(encoding="utf-8"))}


def _completed(run: Path) -> bool:
    manifest = run / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("status") == "completed"


def experiment(name: str, seeds: list[int], work: Path) -> dict[str, Any]:
    """Choose on validation rows, train with every seed, score on test rows."""
    folder, target, method, candidates = EXPERIMENTS[name]
    tried = {c: train(name, c, seeds[0], work)["metrics"]["accuracy"] for c in candidates}
    chosen = max(tried, key=lambda c: tried[c])
    runs = {}
    for seed in seeds:
        done = train(name, chosen, seed, work)
        test = tunery("eval", done["path"], "--data", str(DATA / folder / "test.jsonl"))
        runs[seed] = {
            "validation": done["metrics"]["accuracy"],
            "test": test["metrics"]["accuracy"],
            "seconds": done["seconds"],
        }
    return {
        "method": method,
        "tried": tried,
        "chosen": chosen,
        "target": target,
        "test_accuracy_median": statistics.median(found["test"] for found in runs.values()),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "accuracy")
    args = parser.parse_args()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        found = experiment(name, args.seeds, args.work)
        print(f"{name}: {found['test_accuracy_median']:.4f} (target {found['target']})", flush=True)
        results = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
        TARGET.write_text(json.dumps({**results, name: found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
