"""What ``make demo`` shows: fine-tune smollm2 on the shop's questions, and ask it new ones.

Prints the base model's and the tuned model's answers side by side, and the share of questions whose key fact
stands in the answer.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tunery
from tunery.protocols import Scored
from tunery.scoring import score

SHOWN = 8


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def share(rows: list[dict[str, Any]]) -> float:
    """Of answers that contain their key fact."""
    scored = Scored(
        [r["prediction"] for r in rows], [r["reference"] for r in rows], [tuple(r["contains"]) for r in rows]
    )
    return score(scored, ["contains"], ("text",))["contains"]


def by_language(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[int]]]:
    """English and Chinese questions by number."""
    chinese = [i for i, r in enumerate(rows) if any("\u4e00" <= c <= "\u9fff" for c in r["input"])]
    yield "English", [i for i in range(len(rows)) if i not in set(chinese)]
    yield "Chinese", chinese


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="examples/support.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    args = parser.parse_args()
    log = logging.getLogger("tunery")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    run = tunery.train(config=args.config, overrides=args.overrides)
    base = read(run.path / "eval" / "test-base" / "predictions.jsonl")
    tuned = read(run.path / "eval" / "test" / "predictions.jsonl")
    for i in range(0, len(tuned), max(len(tuned) // SHOWN, 1)):
        print(f"\n? {tuned[i]['input']}")
        print(f"  base   {' '.join(base[i]['prediction'].split())[:150]}")
        print(f"  tuned  {' '.join(tuned[i]['prediction'].split())[:150]}")
    print("\nshare of test questions whose key fact is in the answer")
    for language, numbers in by_language(tuned):
        if numbers:
            before, after = (share([rows[i] for i in numbers]) for rows in (base, tuned))
            print(f"  {language} ({len(numbers)}): base {before:.2f}, tuned {after:.2f}")
    manifest = run.manifest
    seconds, speed = manifest["seconds"], manifest["tokens_per_second"]
    print(f"\ntrained in {seconds:.0f} s at {speed:.0f} tokens/s; the run is {run.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
