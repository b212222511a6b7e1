"""What ``tunery search`` promises: 20 trials beat a deliberately bad default, measured on test rows no trial has seen.

    python benchmarks/decide_search.py                 lora on minilm, learning rate 1e-6 (half an hour on two cores)
    python benchmarks/decide_search.py --rows 100 --method freeze

The learning rate of the configuration is so low that nothing is learnt; the search is given a range that holds it.
The result is added to docs/benchmarks/decide.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from decide import REPOSITORY, SST2, TARGET, first_rows, tunery

BAD = "train.lr=1e-6"
SPACE = ("train.lr={log: [1e-6, 1e-1]}", "train.batch_size=[8, 16, 32]", "train.epochs={range: [1, 4]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--rows", type=int, default=300, help="training rows")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = {"train": given.rows, "validation": 200, "test": 400}
        files = first_rows(given.data / SST2, rows, work)
        common = [*files, "model=minilm", "task=classify", f"method={given.method}", f"run.dir={work}"]
        common += ["train.epochs=2"]
        space = [word for each in SPACE for word in ("--space", each)]
        options = ["--trials", str(given.trials), "--workers", str(given.workers)]
        found = tunery("search", *common, BAD, *space, *options)
        bad = tunery("train", *common, BAD)
        usual = tunery("train", *common)
    statuses = [trial["status"] for trial in found["trials"]]
    result = {
        "method": given.method,
        "rows": rows,
        "trials": {status: statuses.count(status) for status in sorted(set(statuses))},
        "seconds": found["seconds"],
        "best": found["best"]["settings"],
        "validation": {"bad default": found["trials"][0]["value"], "best": found["best"]["value"]},
        "test": {
            "bad default": bad["test_metrics"]["accuracy"],
            "tunery's own default": usual["test_metrics"]["accuracy"],
            "best": found["test"]["metrics"]["accuracy"],
        },
        "importance": found["importance"],
    }
    print(json.dumps(result, indent=2))
    known = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    TARGET.write_text(json.dumps({**known, "search": result}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
