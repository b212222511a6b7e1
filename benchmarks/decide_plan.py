"""How good are the predictions of tunery plan? Planned and then trained: time and peak memory, predicted beside actual.

    python benchmarks/decide_plan.py [--only minilm smollm2] [--methods lora full …] [--rows 600] [--data FOLDER]

minilm classifies sst2, smollm2 learns the alpaca set; five methods each with their own defaults. Each method is planned
and trained in processes of their own, one after the other, as a user would. Finished runs in the work folder are not
trained again. Writes docs/benchmarks/plan.json; the exit code is 1 if a prediction is off by more than 20 %.

Run it on a machine that does nothing else: a prediction is of the machine as it was when it was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
TARGET = REPOSITORY / "docs" / "benchmarks" / "plan.json"
WITHIN = 0.2
METHODS = {
    "minilm": ["full", "lora", "adapter", "ia3", "prefix"],
    "smollm2": ["full", "lora", "adapter", "prefix", "prompt"],
}
SETTINGS = {
    "minilm": ("sst2_en_sentiment", 2000, ["task=classify", "train.batch_size=32", "train.epochs=2"]),
    "smollm2": ("alpaca_en_instruct", 160, ["task=instruct", "train.batch_size=8", "train.epochs=1"]),
}
"""Data set, training rows, configuration."""


def first_rows(source: Path, rows: int, target: Path) -> Path:
    with source.open(encoding="utf-8") as stream:
        lines = [line for _, line in zip(range(rows), stream, strict=False)]
    target.write_text("".join(lines), encoding="utf-8")
    return target


def tunery(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tunery", *arguments, "--json"]
    done = subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def one(model: str, method: str, rows: int | None, work: Path, folder: Path) -> dict[str, Any]:
    data, usual, settings = SETTINGS[model]
    train = first_rows(folder / data / "train.jsonl", rows or usual, work / f"{model}-{rows or usual}.jsonl")
    keys = [f"model={model}", f"data.train={train}", f"data.validation={folder / data / 'validation.jsonl'}"]
    keys += [*settings, f"method={method}", f"run.dir={work}"]
    name = f"{model}-{method}-{rows or usual}"
    manifest = work / name / "manifest.json"
    if not manifest.exists() or json.loads(manifest.read_text(encoding="utf-8")).get("status") != "completed":
        planned = tunery("plan", *keys, "--methods", method)["candidates"][0]
        if planned["status"] != "measured":
            return {"problem": f"{planned['status']}: {planned.get('problem')}"}
        tunery("train", *keys, f"run.name={name}")
    done = json.loads(manifest.read_text(encoding="utf-8"))
    predicted, error = done["predicted"], done["prediction_error"]
    return {
        "seconds": {"predicted": predicted["seconds"], "actual": done["wall_seconds"], "error": error["seconds"]},
        "interval": predicted["seconds_interval"],
        "steps": {"predicted": predicted["parts"]["steps"], "actual": done["seconds"]},
        "memory": {
            "predicted": predicted["peak_memory_bytes"],
            "actual": done["peak_memory_bytes"],
            "error": error["peak_memory_bytes"],
        },
        "parts": predicted["parts"],
    }


def line(model: str, method: str, found: dict[str, Any]) -> str:
    if "problem" in found:
        return f"{model:8} {method:8} {found['problem']}"
    time, memory, steps = found["seconds"], found["memory"], found["steps"]
    gigabytes = [memory[key] / 1e9 for key in ("predicted", "actual")]
    return (
        f"{model:8} {method:8} seconds {time['predicted']:7.1f} predicted {time['actual']:7.1f} actual "
        f"{time['error']:+.0%}   (steps {steps['predicted']:.1f}, {steps['actual']:.1f})   "
        f"memory {gigabytes[0]:.2f} GB predicted {gigabytes[1]:.2f} actual {memory['error']:+.0%}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--methods", nargs="*", help="default: five for each model")
    parser.add_argument("--rows", type=int, help="training rows; default: 2000 of sst2, 160 of alpaca")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "plan")
    parser.add_argument("--out", type=Path, default=TARGET)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for model in args.only:
        for method in args.methods or METHODS[model]:
            found = one(model, method, args.rows, args.work, args.data)
            results.setdefault(model, {})[method] = found
            print(line(model, method, found), flush=True)
            args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    made = [each for methods in results.values() for each in methods.values()]
    errors = [abs(each[kind]["error"]) for each in made if "seconds" in each for kind in ("seconds", "memory")]
    good = sum(error <= WITHIN for error in errors)
    print(f"{good} of {len(errors)} predictions within ±{WITHIN:.0%}")
    return 0 if errors and good == len(errors) and len(errors) == 2 * len(made) else 1


if __name__ == "__main__":
    raise SystemExit(main())
