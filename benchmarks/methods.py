"""Methods on smollm2: validation loss on the alpaca set, and key facts of examples/support.jsonl in new answers.

    python benchmarks/methods.py [--only alpaca support] [--methods lora …] [--rows 300] [--work FOLDER]

alpaca: the first rows of the training set, one epoch, each method's own defaults; the loss of the 50 validation rows
beside the base model's. support: the configurations of examples/ as they are; the share of test questions whose key
fact is in the answer. Finished runs in the work folder are not trained again. Writes docs/benchmarks/methods.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "examples"
ALPACA = REPOSITORY.parent / "shared" / "data" / "alpaca_en_instruct"
TARGET = REPOSITORY / "docs" / "benchmarks" / "methods.json"

METHODS = ["lora", "adapter", "prefix", "prompt", "p_tuning", "qlora"]
SUPPORT = {"lora": EXAMPLES / "support.yaml", "qlora": EXAMPLES / "methods" / "qlora.yaml"}
SUPPORT |= {name: EXAMPLES / "methods" / f"support-{name}.yaml" for name in METHODS if name not in SUPPORT}


def train(name: str, work: Path, *arguments: str) -> dict[str, Any]:
    """Train unless that was done already → the run's manifest."""
    manifest = work / name / "manifest.json"
    if not manifest.exists() or json.loads(manifest.read_text(encoding="utf-8")).get("status") != "completed":
        places = (f"run.dir={work}", f"run.name={name}")
        subprocess.run([sys.executable, "-m", "tunery", "train", *arguments, *places], check=True, cwd=REPOSITORY)
    return json.loads(manifest.read_text(encoding="utf-8"))


def alpaca(method: str, rows: int, work: Path) -> dict[str, Any]:
    short = work / f"alpaca-{rows}.jsonl"
    with (ALPACA / "train.jsonl").open(encoding="utf-8") as stream:
        short.write_text("".join(stream.readlines()[:rows]), encoding="utf-8")
    quantised = ["model.quantise=nf4"] if method == "qlora" else []
    done = train(
        f"alpaca-{method}-{rows}", work, "model=smollm2", "task=instruct", f"data.train={short}",
        f"data.validation={ALPACA / 'validation.jsonl'}", f"method={'lora' if quantised else method}", *quantised,
        "train.epochs=1", "train.batch_size=8", "eval.generate_rows=0",
    )  # fmt: skip
    return {
        "rows": rows,
        "base_loss": done["base_metrics"]["loss"],
        "loss": done["metrics"]["loss"],
        "trainable": done["parameters"]["trainable"],
        "seconds": done["seconds"],
        "peak_memory_bytes": done["peak_memory_bytes"],
    }


def support(method: str, work: Path) -> dict[str, Any]:
    config = SUPPORT[method]
    done = train(f"support-{method}", work, str(config), f"data.test={EXAMPLES / 'support_test.jsonl'}")
    return {
        "config": str(config.relative_to(REPOSITORY)),
        "base_contains": done["base_test_metrics"]["contains"],
        "contains": done["test_metrics"]["contains"],
        "loss": done["metrics"]["loss"],
        "trainable": done["parameters"]["trainable"],
        "seconds": done["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=["alpaca", "support"], default=["alpaca", "support"])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "methods")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for part in args.only:
        for method in args.methods:
            found = alpaca(method, args.rows, args.work) if part == "alpaca" else support(method, args.work)
            print(part, method, json.dumps(found), flush=True)
            results = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
            results.setdefault(part, {})[method] = found
            TARGET.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
