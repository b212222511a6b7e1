"""Test scores of the methods on real data, median of three seeds, settings chosen on validation rows.

    python benchmarks/accuracy.py [--only sst2-lora …] [--seeds 1 2 3] [--work FOLDER]

Each experiment names a few settings. Each is trained once, with the first seed and without the test rows being
read; the one with the best validation score is then trained with every seed, and only those runs are scored on
the test rows. Finished runs in the work folder are not trained again. Writes docs/benchmarks/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
TARGET = REPOSITORY / "docs" / "benchmarks" / "accuracy.json"


@dataclass(frozen=True)
class Experiment:
    data: str
    """Folder of the data set."""
    target: float | None
    """What was asked for."""
    settings: tuple[str, ...]
    """What all candidates share; files are those of examples/methods."""
    candidates: tuple[str, ...]
    metric: str = "accuracy"
    shots: int | None = None
    """So many training rows, as many of each label, drawn anew with each seed; a fifth of the validation rows."""


SST2, BANKING, HOTEL = "sst2_en_sentiment", "banking77_en_intent", "chnsenticorp_hotel_zh_sentiment"
XQUAD, CMRC = "xquad_en_extractive_qa", "cmrc2018_zh_extractive_qa"
MINILM = ("model=minilm", "task=classify", "train.batch_size=32")
SMOLLM2 = (
    "model=smollm2", "method=lora", "train.batch_size=8", "train.patience=null", "train.keep=last", "eval.every=1000",
)
CLOZE = (
    "task=cloze", "task.template=Review: {text} | Sentiment: {label}",
    "task.verbaliser={positive: [great, good], negative: [terrible, bad]}",
)
QA = ("model=minilm", "task=extract_qa", "method=full", "train.batch_size=16", "train.patience=null")
FEW = ("lr=2e-4 epochs=10", "lr=5e-4 epochs=10", "lr=1e-3 epochs=10")
EXPERIMENTS: dict[str, Experiment] = {
    "sst2-full": Experiment(
        SST2, 0.87, (*MINILM, "method=full"), ("lr=5e-5 epochs=2", "lr=1e-4 epochs=2", "lr=2e-4 epochs=2")
    ),
    "sst2-lora": Experiment(
        SST2, 0.87, (*MINILM, "method=lora"), ("lr=5e-4 epochs=1", "lr=1e-3 epochs=2", "lr=2e-3 epochs=2")
    ),
    "sst2-last2": Experiment(
        SST2, 0.85, (*MINILM, "method=freeze", "method.layers=2"),
        ("lr=1e-4 epochs=2", "lr=2e-4 epochs=3", "lr=5e-4 epochs=3"),
    ),
    "sst2-head": Experiment(
        SST2, 0.79, (*MINILM, "method=freeze", "method.layers=0"), ("lr=1e-2 epochs=3", "lr=3e-2 epochs=3")
    ),
    "sst2-ia3": Experiment(SST2, 0.85, ("ia3.yaml", *MINILM), ("lr=5e-3 epochs=2", "lr=1e-2 epochs=3")),
    "sst2-prefix": Experiment(SST2, 0.85, ("prefix.yaml", *MINILM), ("lr=1e-2 epochs=2", "lr=2e-2 epochs=3")),
    "sst2-adapter": Experiment(SST2, 0.865, ("adapter.yaml", *MINILM), ("lr=1e-3 epochs=2", "lr=2e-3 epochs=2")),
    "sst2-bitfit": Experiment(SST2, 0.85, ("bitfit.yaml", *MINILM), ("lr=4e-3 epochs=2",)),
    "sst2-prompt": Experiment(SST2, 0.82, ("prompt.yaml", *MINILM), ("lr=3e-2 epochs=3", "lr=1e-1 epochs=3")),
    "sst2-p_tuning": Experiment(SST2, 0.82, ("p_tuning.yaml", *MINILM), ("lr=4e-3 epochs=2",)),
    "banking77-lora": Experiment(BANKING, 0.90, (*MINILM, "method=lora"), ("lr=2e-3 epochs=4", "lr=4e-3 epochs=4")),
    "banking77-full": Experiment(BANKING, 0.90, (*MINILM, "method=full"), ("lr=2e-4 epochs=4", "lr=4e-4 epochs=4")),
    "chnsenticorp-lora": Experiment(
        HOTEL, 0.69, (*MINILM, "method=lora", "data.max_length=192"), ("lr=1e-3 epochs=3", "lr=2e-3 epochs=3")
    ),
    "xquad-full": Experiment(XQUAD, None, QA, ("lr=2e-4 epochs=10",), "f1"),
    "cmrc2018-full": Experiment(CMRC, None, QA, ("lr=3e-4 epochs=3 batch_size=8",), "f1"),
    "sst2-zero-shot-cloze": Experiment(SST2, 0.60, (*SMOLLM2, *CLOZE), ("max_steps=0",), shots=32),
    "sst2-32-rows-cloze": Experiment(SST2, None, (*SMOLLM2, *CLOZE), FEW, shots=32),
    "sst2-32-rows-head": Experiment(SST2, None, (*SMOLLM2, "task=classify"), FEW, shots=32),
}  # fmt: skip


def tunery(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tunery", *arguments, "--json"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def argument(setting: str) -> str:
    return str(REPOSITORY / "examples" / "methods" / setting) if setting.endswith(".yaml") else setting


def few(folder: Path, experiment: Experiment, seed: int) -> dict[str, Path]:
    """The rows of a seed: training rows balanced by label, every fifth validation row."""
    source = DATA / experiment.data
    rows = [json.loads(line) for line in (source / "train.jsonl").open(encoding="utf-8")]
    random.Random(seed).shuffle(rows)
    labels = sorted({row["label"] for row in rows})
    share = (experiment.shots or 0) // len(labels)
    chosen = [row for label in labels for row in [r for r in rows if r["label"] == label][:share]]
    files = {"train": folder / f"{experiment.data}-{experiment.shots}-{seed}.jsonl"}
    files["train"].write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    files["validation"] = folder / f"{experiment.data}-fifth.jsonl"
    fifth = (source / "validation.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[::5]
    files["validation"].write_text("".join(fifth), encoding="utf-8")
    return files


def train(name: str, candidate: str, seed: int, work: Path) -> dict[str, Any]:
    """One training, which never sees the test rows → the run's manifest."""
    experiment = EXPERIMENTS[name]
    run = work / f"{name}-{candidate.replace(' ', '-').replace('=', '')}-{seed}"
    if not _completed(run):
        files = {s: DATA / experiment.data / f"{s}.jsonl" for s in ("train", "validation")}
        if experiment.shots:
            files = few(work, experiment, seed)
        tunery(
            "train", *map(argument, experiment.settings), f"train.seed={seed}",
            *(f"data.{kind}={path}" for kind, path in files.items()), f"run.dir={work}", f"run.name={run.name}",
            *(f"train.{setting}" for setting in candidate.split()),
        )  # fmt: skip
    return {"path": str(run), **json.loads((run / "manifest.json").read_text(encoding="utf-8"))}


def _completed(run: Path) -> bool:
    manifest = run / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("status") == "completed"


def measure(name: str, seeds: list[int], work: Path) -> dict[str, Any]:
    """Choose on validation rows, train with every seed, score on test rows."""
    experiment = EXPERIMENTS[name]
    metric, candidates = experiment.metric, experiment.candidates
    tried = {c: train(name, c, seeds[0], work)["metrics"][metric] for c in candidates}
    chosen = max(tried, key=lambda c: tried[c])
    runs = {}
    for seed in seeds if chosen != "max_steps=0" else seeds[:1]:
        done = train(name, chosen, seed, work)
        test = tunery("eval", done["path"], "--data", str(DATA / experiment.data / "test.jsonl"))
        runs[seed] = {
            "validation": done["metrics"][metric],
            "test": test["metrics"][metric],
            "all": test["metrics"],
            "seconds": done["seconds"],
        }
    tests = [found["test"] for found in runs.values()]
    return {
        "method": " ".join(experiment.settings),
        "metric": metric,
        "tried": tried,
        "chosen": chosen,
        "target": experiment.target,
        "test_median": statistics.median(tests),
        "test_mean": statistics.mean(tests),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "accuracy")
    args = parser.parse_args()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        found = measure(name, args.seeds, args.work)
        print(f"{name}: {found['test_median']:.4f} (asked for: {found['target']})", flush=True)
        results = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
        results[name] = found
        results = {key: results[key] for key in EXPERIMENTS if key in results}
        TARGET.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
