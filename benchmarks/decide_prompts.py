"""``tunery prompts`` on sst2 with smollm2, zero-shot: is the prompt that was found better on rows the search never saw?

    python benchmarks/decide_prompts.py [--rows 256] [--test-rows 400] [--work FOLDER]

Searches on training and validation rows. Then every prompt that was tried is scored on the first test rows, and the one
found, the one written by hand that the search thought best, and the one of docs/results.md on all of them. Writes
docs/benchmarks/decide_prompts.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tunery import config as configuration
from tunery.decide import prompts
from tunery.decide.candidates import Candidate
from tunery.decide.prompt_material import open_material
from tunery.decide.prompt_scores import Material, scorer
from tunery.run.dataset import load_examples

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data" / "sst2_en_sentiment"
TARGET = REPOSITORY / "docs" / "benchmarks" / "decide_prompts.json"
BASELINE = {
    "template": "Review: {text} | Sentiment: {label}",
    "verbaliser": {"positive": ["great", "good"], "negative": ["terrible", "bad"]},
    "calibrate": False,
}


def on_rows(material: Material, candidates: list[Candidate], rows: int) -> dict[str, float]:
    """Accuracy by candidate."""
    every = scorer(material)
    every.expect(candidates)
    found = {}
    for candidate in candidates:
        found[candidate.key] = every.score(candidate, rows).value
        print(f"{rows} rows: {found[candidate.key]:.4f} {candidate.origin} {candidate.key}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="development rows")
    parser.add_argument("--test-rows", type=int, default=100, help="test rows for the median of the candidates")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, help="folder of the search; one that is there is gone on with")
    arguments = parser.parse_args()
    folder = arguments.work or Path(tempfile.mkdtemp())
    files = {name: str(arguments.data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    values: dict[str, Any] = {"model": "smollm2", "task": "cloze", "data": files, "run.dir": str(folder)}
    data = {name: files[name] for name in ("train", "validation")}
    config = configuration.load(None, ["run.name=sst2"], {**values, "data": data})
    begun = time.monotonic()
    run = folder / "sst2"
    if not prompts.is_folder(run):
        run = prompts.find(config, prompts.Options(rows=arguments.rows))
    elif prompts.summary(run)["status"] != "completed":
        prompts.resume(run)
    seconds = time.monotonic() - begun
    record = json.loads((run / prompts.FILE).read_text(encoding="utf-8"))
    material, _ = open_material(config, arguments.rows, None)
    test = list(load_examples(files["test"], material.config.data, need_target=True)[0])
    material = replace(material, rows=test)
    tried = {
        key: Candidate(entry["origin"], entry["task"], entry["longer"])
        for key, entry in record["candidates"].items()
        if entry["scores"]
    }
    shown = {"best": tried[record["best"]["key"]], "hand": tried[record["hand"]["key"]]}
    shown["results.md"] = Candidate("hand", BASELINE)
    whole = on_rows(material, list(shown.values()), len(test))
    few = on_rows(material, list(tried.values()), min(arguments.test_rows, len(test)))
    by_hand = {key: few[key] for key, candidate in tried.items() if candidate.by_hand}
    result = {
        "seconds": round(seconds, 1),
        "rows": {"development": record["rows"], "test": len(test), "test, all candidates": arguments.test_rows},
        "candidates": len(tried),
        "development": {name: record[name]["value"] for name in ("best", "hand")},
        "test": {name: whole[candidate.key] for name, candidate in shown.items()},
        "test, first rows": {
            "median of the candidates": median(few.values()),
            "best": few[shown["best"].key],
            "highest of those written by hand": max(by_hand.values()),
            "lowest": min(few.values()),
            "highest": max(few.values()),
        },
        "best": record["best"],
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    TARGET.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
