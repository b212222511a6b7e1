"""What ``tunery train --continue`` must show: ten new facts are learnt, and the old ones are kept.

    python benchmarks/continue.py RUN [--work FOLDER] [section.key=value …]

RUN is a finished run of ``examples/support.yaml`` (``make demo`` makes one). It is continued with
``examples/support_new.jsonl``, with its own settings and several shares of old rows that are replayed; all runs answer
the old and the new test questions, and all figures are kept: nothing is chosen by them. Writes
docs/benchmarks/continue.json; the exit code is 0 if a share reaches both bounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import tunery
from tunery.protocols import Scored
from tunery.scoring import score

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = REPOSITORY / "docs" / "benchmarks" / "continue.json"
EXAMPLES = REPOSITORY / "examples"
NEW, NEW_TEST, OLD_TEST = (EXAMPLES / f"{name}.jsonl" for name in ("support_new", "support_new_test", "support_test"))
SHARES = (0.0, 0.3, 0.6, 1.0)
"""Of the old rows; 0.6 is the default: the smallest of these that keeps nine of ten old answers."""
HOLDOUT = "data.holdout=0.05"
"""Of the new rows, to be watched while training."""
LEAN = ("eval.generate_rows=20", "eval.base=false", "eval.baselines=false", "eval.general_text=null")
"""What is not needed here is not measured."""
LEARNT, KEPT = 0.8, 0.9
"""What must be reached: share of new test questions answered rightly, and of old ones that were right before."""


def go_on(run: tunery.Run, folder: Path, share: float, settings: list[str]) -> tunery.Run:
    fixed = [f"train.replay={share}", HOLDOUT, f"run.dir={folder}", *LEAN]
    return tunery.train(NEW, continue_from=run, overrides=[*fixed, *settings])


def right(run: tunery.Run, data: Path) -> list[bool]:
    """For each question, whether the key fact is in the answer."""
    found = []
    for row in run.predict_file(str(data)):
        scored = Scored([row["prediction"]], [row["reference"]], [tuple(row["contains"])])
        found.append(score(scored, ["contains"], ("text",))["contains"] == 1)
    return found


def judged(run: tunery.Run, before: list[bool]) -> dict[str, Any]:
    """``before``: of the old test questions, those that the parent answered rightly."""
    new, old = right(run, NEW_TEST), right(run, OLD_TEST)
    kept = sum(now for now, was in zip(old, before, strict=True) if was)
    manifest = run.manifest
    return {
        "new_right": sum(new),
        "new_questions": len(new),
        "learnt": round(sum(new) / len(new), 4),
        "old_right": sum(old),
        "old_questions": len(old),
        "right_before": sum(before),
        "still_right": kept,
        "kept": round(kept / sum(before), 4),
        "replayed": manifest["parent"]["replayed"],
        "rows": manifest["rows"],
        "steps": manifest["steps"],
        "seconds": manifest["seconds"],
        "retention": manifest["retention"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--work", type=Path)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    folder = args.work or Path(tempfile.mkdtemp(prefix="tunery-continue-"))
    copy = folder / "parent"
    if not copy.exists():
        shutil.copytree(args.run, copy)
    parent = tunery.load(copy)
    before, unknown = right(parent, OLD_TEST), right(parent, NEW_TEST)
    runs: list[dict[str, Any]] = []
    found = {
        "settings": args.settings,
        "bounds": {"learnt": LEARNT, "kept": KEPT},
        "parent": {"old_right": sum(before), "new_right": sum(unknown)},
        "runs": runs,
    }
    for share in SHARES:
        runs.append({"share": share, **judged(go_on(parent, folder, share, args.settings), before)})
        print(json.dumps(runs[-1], indent=2), flush=True)
        TARGET.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    reached = [one["share"] for one in runs if one["learnt"] >= LEARNT and one["kept"] >= KEPT]
    print(f"reached with {reached}" if reached else "NOT reached")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
