"""What ``tunery train --continue`` must show: ten new facts are learnt, and the old ones are kept.

    python benchmarks/continue.py RUN [--work FOLDER] [section.key=value …]

RUN is a finished run of ``examples/support.yaml`` (``make demo`` makes one). It is continued with
``examples/support_new.jsonl``, once with replay and once without; all runs answer the old and the new test questions.
Writes docs/benchmarks/continue.json. Unless settings are given, they are chosen among ``CANDIDATES`` by validation
wordings (one in eight of the new training questions, and the old validation questions): what is better in the worse of
two shares, the new questions that are answered rightly, and what is left of the old answers' ROUGE-L. No test question
is read for it.
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
CANDIDATES: tuple[list[str], ...] = (
    [], ["train.replay=0.6"], ["train.replay=1"], ["train.replay=0.6", "train.lr=7e-4"], ["train.lr=7e-4"],
)  # fmt: skip
"""The first: the parent's own, and the default share of old rows."""
LEAN = ("eval.generate_rows=20", "eval.base=false", "eval.baselines=false", "eval.general_text=null")
"""What is not needed here is not measured."""
LEARNT, KEPT = 0.8, 0.9
"""What must be reached: share of new test questions answered rightly, and of old ones that were right before."""


def go_on(run: tunery.Run, folder: Path, settings: list[str], holdout: float) -> tunery.Run:
    fixed = [f"data.holdout={holdout}", f"run.dir={folder}", *LEAN]
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


def choose(parent: tunery.Run, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """→ the settings, and the numbers of every candidate."""
    tried = []
    for settings in CANDIDATES:
        found = go_on(parent, folder, settings, 0.125).manifest["retention"]
        new, old = found["new"]["after"], found["old"]["after"]
        left = old["rougeL"] / found["old"]["before"]["rougeL"]
        tried.append({"settings": settings, "judged": round(min(new["contains"], left), 4), "new": new, "old": old})
        print(json.dumps(tried[-1]), flush=True)
    return max(tried, key=lambda one: one["judged"])["settings"], tried


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
    settings, tried = (args.settings, []) if args.settings else choose(parent, folder)
    before, unknown = right(parent, OLD_TEST), right(parent, NEW_TEST)
    found: dict[str, Any] = {
        "settings": settings,
        "candidates": tried,
        "bounds": {"learnt": LEARNT, "kept": KEPT},
        "parent": {"old_right": sum(before), "new_right": sum(unknown)},
    }
    for name, more in (("replay", []), ("without_replay", ["train.replay=0"])):
        found[name] = judged(go_on(parent, folder, [*settings, *more], 0.05), before)
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        TARGET.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    reached = found["replay"]["learnt"] >= LEARNT and found["replay"]["kept"] >= KEPT
    print("reached" if reached else "NOT reached")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
