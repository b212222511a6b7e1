"""What decisions promise, measured on real data.

    python benchmarks/decide.py coverage            intervals on simulated runs of one method (2 minutes, no model)
    python benchmarks/decide.py compare             20 pairs of one method with different seeds: how many are no tie?
    python benchmarks/decide.py compare --runs 16   … with runs that several pairs share
    python benchmarks/decide.py curve               full-data scores predicted from half of the rows
    python benchmarks/decide.py curve --only trec --rows 1000

Finished runs in the work folder are not trained again. Results are added to docs/benchmarks/decide.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = REPOSITORY / "docs" / "benchmarks" / "decide.json"
PAIRS = 20
SST2 = "sst2_en_sentiment"
COMPARED = (
    "model=minilm", "task=classify", "method=freeze", "method.layers=0", "train.lr=3e-2", "train.epochs=3",
)  # fmt: skip
ROWS = {"train": 200, "validation": 50, "test": 300}


def tunery(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tunery", *arguments, "--json"]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def first_rows(source: Path, rows: dict[str, int], folder: Path) -> list[str]:
    """Files with the first rows of each split, as arguments."""
    found = []
    for split, count in rows.items():
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        file = folder / f"{source.name}-{split}-{count}.jsonl"
        file.write_text("".join(lines), encoding="utf-8")
        found.append(f"data.{split}={file}")
    return found


# -------------------------------------------------------------------------------------------- compare


def measure_compare(runs: int, side: int, data: Path, work: Path) -> dict[str, Any]:
    """Pairs of one method: how many are not called a tie over rows alone, and over rows and seeds."""
    from tunery.decide.compare import compare

    trained = [train_seed(seed, data, work) for seed in range(1, runs + 1)]
    pick = random.Random(0)
    order = pick.sample(trained, len(trained))
    decided = {"rows": 0, "rows and seeds": 0}
    widths: dict[str, list[float]] = {"rows": [], "rows and seeds": []}
    for number in range(PAIRS):
        begin = 2 * side * number
        chosen = order[begin : begin + 2 * side] if runs >= 2 * side * PAIRS else pick.sample(trained, 2 * side)
        for covers, count in (("rows", 1), ("rows and seeds", side)):
            found = compare(groups={"a": chosen[:count], "b": chosen[side : side + count]})["pairs"][0]
            assert found["covers"] == covers
            decided[covers] += not found["tie"]
            widths[covers].append(found["interval"][1] - found["interval"][0])
    scores = [json.loads((Path(run) / "manifest.json").read_text())["test_metrics"]["accuracy"] for run in trained]
    return {
        "method": " ".join(COMPARED), "rows": ROWS, "runs": runs, "runs_a_side": side, "pairs": PAIRS,
        "pairs_share_runs": runs < 2 * side * PAIRS, "not_called_a_tie": decided,
        "mean_width": {name: sum(values) / len(values) for name, values in widths.items()},
        "accuracy": {"lowest": min(scores), "highest": max(scores)},
    }  # fmt: skip


def status(run: Path) -> str | None:
    file = run / "manifest.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["status"]) if file.exists() else None


def train_seed(seed: int, data: Path, work: Path) -> str:
    run = work / f"compare-{seed}"
    if status(run) not in (None, "completed"):
        tunery("resume", str(run))
    elif status(run) is None:
        settings = [*COMPARED, f"train.seed={seed}", "eval.base=false", "eval.baselines=false"]
        tunery("train", *first_rows(data / SST2, ROWS, work), *settings, f"run.dir={work}", f"run.name={run.name}")
    return str(run)


# ---------------------------------------------------------------------------------------------- curve


CURVES = {
    "sst2": (SST2, ("method=lora", "train.lr=1e-3", "train.epochs=2")),
    "trec": ("trec_en_question_type", ("method=full", "train.lr=2e-4", "train.epochs=4")),
    "banking77": ("banking77_en_intent", ("method=full", "train.lr=4e-4", "train.epochs=4")),
}
"""Data set and settings (those that benchmarks/accuracy.py found, or near them)."""
WIDEST = 0.04


def measure_curve(name: str, rows: int | None, seeds: int, sizes: int, data: Path, work: Path) -> dict[str, Any]:
    """The score on all rows, predicted from up to half of them and measured. The runs on all rows are no part of
    the prediction: they are trained after it.

    Args:
        rows: so many training rows at most (None: all there are).
    """
    source, settings = data / CURVES[name][0], CURVES[name][1]
    files = first_rows(source, {"train": rows or 10**9, "validation": 10**9, "test": 10**9}, work)
    shared = ["model=minilm", "task=classify", "train.batch_size=32", *settings, *files]
    folder = work / f"curve-{name}-{rows or 'all'}"
    curve_file = folder / "curve.json"
    if not curve_file.exists():
        options = ["--share", "0.5", "--sizes", str(sizes), "--seeds", str(seeds), "--metric", "accuracy"]
        tunery("curve", *shared, f"run.dir={work}", f"run.name={folder.name}", *options)
    elif json.loads(curve_file.read_text(encoding="utf-8"))["status"] != "completed":
        tunery("resume", str(folder))
    found = json.loads(curve_file.read_text(encoding="utf-8"))
    measured = []
    for seed in found["seeds"]:
        run = work / f"{folder.name}-whole-{seed}"
        if status(run) not in (None, "completed"):
            tunery("resume", str(run))
        elif status(run) is None:
            tunery(
                "train", *shared, f"train.seed={seed}", "eval.base=false", "eval.baselines=false",
                f"run.dir={work}", f"run.name={run.name}",
            )  # fmt: skip
        results = json.loads((run / "eval" / "test" / "results.json").read_text(encoding="utf-8"))
        measured.append(results["metrics"]["accuracy"])
    prediction = next(p for p in found["predictions"] if p["rows"] == found["rows"])
    low, high = prediction["interval"]
    mean = sum(measured) / len(measured)
    return {
        "settings": " ".join(CURVES[name][1]), "rows": found["rows"], "seeds": found["seeds"],
        "scores": {str(s["rows"]): s["values"] for s in found["scores"]}, "fit": found["fit"],
        "predicted": prediction["score"], "interval": [low, high], "width": high - low,
        "measured": measured, "measured_mean": mean, "inside": low <= mean <= high, "narrow": high - low <= WIDEST,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- coverage


def measure_coverage(trials: int) -> list[dict[str, Any]]:
    """Shares of comparisons of a method with itself that are no tie, by the spread between seeds; 5 % are meant to be.

    A row is right if its ease (normal, 1.5 ± 1.5) plus the seed's shift (normal, ``spread``) plus what is of this run
    and row alone (normal, 0.4) is above 0.
    """
    import numpy as np

    from tunery.decide.pairs import pair

    random_numbers = np.random.default_rng(0)

    def runs(count: int, ease: Any, spread: float) -> Any:
        noise = random_numbers.normal(0, 0.4, (count, len(ease)))
        return (ease + random_numbers.normal(0, spread, (count, 1)) + noise > 0).astype(float)

    def resampled(first: Any, second: Any) -> bool:
        """Whether the percentile interval of the two-level bootstrap (seeds, then rows) holds 0."""
        differences = []
        for _ in range(300):
            rows = random_numbers.integers(0, first.shape[1], first.shape[1])
            seeds = [random_numbers.integers(0, len(side), len(side)) for side in (first, second)]
            differences.append(second[seeds[1]].mean(0)[rows].mean() - first[seeds[0]].mean(0)[rows].mean())
        low, high = np.quantile(differences, [0.025, 0.975])
        return bool(low <= 0 <= high)

    found = []
    for spread in (0.0, 0.1, 0.3):
        for count in (2, 3, 5):
            missed = {"rows": 0, "two-level bootstrap": 0, "rows and seeds": 0}
            for _ in range(trials):
                ease = random_numbers.normal(1.5, 1.5, 1000)
                first, second = runs(count, ease, spread), runs(count, ease, spread)
                missed["rows"] += not pair(first.mean(0), second.mean(0), resamples=500).tie
                missed["two-level bootstrap"] += not resampled(first, second)
                missed["rows and seeds"] += not pair(first, second, resamples=500).tie
            found.append({"spread": spread, "runs_a_side": count} | {name: n / trials for name, n in missed.items()})
            print(found[-1], flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "compare", "curve"])
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data", help="folder of data sets")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "decide", help="folder of the runs")
    parser.add_argument("--runs", type=int, default=80, help="compare: trainings in all")
    parser.add_argument("--side", type=int, default=2, help="compare: trainings a side")
    parser.add_argument("--trials", type=int, default=200, help="coverage: comparisons of each kind")
    parser.add_argument("--only", nargs="*", choices=list(CURVES), default=list(CURVES), help="curve: data sets")
    parser.add_argument("--rows", type=int, help="curve: training rows at most; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="curve: trainings of each size")
    parser.add_argument("--sizes", type=int, default=4, help="curve: sizes, the largest half of the rows")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "coverage":
        found: Any = measure_coverage(args.trials)
    elif args.what == "curve":
        found = {
            name: measure_curve(name, args.rows, args.seeds, args.sizes, args.data, args.work) for name in args.only
        }
    else:
        found = measure_compare(args.runs, args.side, args.data, args.work)
    print(json.dumps(found, indent=2))
    results = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    if args.what == "curve":
        found = {**results.get("curve", {}), **found}
    TARGET.write_text(json.dumps({**results, args.what: found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
