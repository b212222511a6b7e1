"""LoRA instruction tuning of smollm2: tunery beside ``transformers.Trainer`` + peft, in one run.

    python benchmarks/sft.py [--rows 885] [--data FOLDER]

Batch 8, at most 512 tokens, r=8 on all linear layers, one epoch, the same learning rate and schedule. Prints
a table and writes docs/benchmarks/sft.json; quote the ratios, the machine is noisy.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tunery.models.machine import cpus
from tunery.models.packs import pull

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data" / "alpaca_en_instruct"
LR = 2e-4


def last_json(command: list[str]) -> dict[str, object]:
    """Run a command, show its log, return the JSON object it printed last."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def tunery(data: Path, rows: int | None, folder: Path) -> dict[str, float]:
    train = data / "train.jsonl"
    if rows:
        short = folder / "train.jsonl"
        short.write_text("".join(train.open(encoding="utf-8").readlines()[:rows]), encoding="utf-8")
        train = short
    settings = [
        f"data.train={train}", f"data.validation={data / 'validation.jsonl'}", "model=smollm2", "task=instruct",
        "method=lora", "method.r=8", "method.alpha=16", f"train.lr={LR}", "train.epochs=1", "train.batch_size=8",
        "data.max_length=512", "eval.generate_rows=0", f"run.dir={folder / 'runs'}",
    ]  # fmt: skip
    found = last_json([sys.executable, "-m", "tunery", "train", *settings, "--json"])
    return {
        "tokens_per_second": found["tokens_per_second"],
        "seconds": found["seconds"],
        "peak_memory_bytes": found["peak_memory_bytes"],
        "validation_loss": found["metrics"]["loss"],
        "base_validation_loss": found["base"]["loss"],
    }


def baseline(data: Path, rows: int | None) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("trainer_sft.py"))]
    command += ["--model", str(pull("smollm2")), "--data", str(data), "--lr", str(LR)]
    return last_json(command + (["--rows", str(rows)] if rows else []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = tunery(args.data, args.rows, Path(folder))
        theirs = baseline(args.data, args.rows)
    result = {
        "rows": args.rows or "all",
        "threads": cpus(),
        "processor": platform.processor() or platform.machine(),
        "tunery": ours,
        "trainer": theirs,
        "speed_ratio": ours["tokens_per_second"] / theirs["tokens_per_second"],
        "memory_ratio": ours["peak_memory_bytes"] / theirs["peak_memory_bytes"],
        "loss_difference": ours["validation_loss"] / theirs["validation_loss"] - 1,
    }
    for name in ("tokens_per_second", "seconds", "peak_memory_bytes", "validation_loss"):
        print(f"{name:20} tunery {ours[name]:>16.4f}   trainer {theirs[name]:>16.4f}")
    speed, memory = result["speed_ratio"], result["memory_ratio"]
    print(f"speed {speed:.2f}x, memory {memory:.2f}x, loss {result['loss_difference']:+.2%}")
    target = REPOSITORY / "docs" / "benchmarks" / "sft.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
