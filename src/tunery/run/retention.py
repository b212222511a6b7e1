"""What becomes of old knowledge when a run goes on from another: numbers before and after, on the new validation rows
and on the old ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tunery.evaluate import Results
from tunery.run import build, continuing
from tunery.run.prepare import Prepared
from tunery.run.records import say, write_results
from tunery.run.replay import KEPT
from tunery.rundir import RunDir

Score = Callable[[str], Results]
"""Numbers on a split, by its name."""


def begin(run: RunDir, prepared: Prepared, tuned: build.Tuned, score: Score) -> None:
    """Put the parent's weights in place and score them, once a run. Nothing for a run that continues none."""
    if prepared.parent is None:
        return
    manifest = run.manifest()
    continuing.begin(prepared.parent, tuned, manifest.get("parent"))
    if "retention" in manifest:
        return
    say(f"scoring {prepared.parent.run.path.name}, from which this run goes on")
    before = {"validation": score("validation").metrics}
    if prepared.kept is not None:
        found = score(KEPT)
        write_results(run, f"{KEPT}-before", prepared.kept, prepared.task, found)
        before[KEPT] = found.metrics
    run.update_manifest(retention={"before": before})


def end(run: RunDir, prepared: Prepared, validation: Results, score: Score) -> dict[str, Any] | None:
    """``retention`` of the manifest: {"new", "old"} → rows, numbers before and after. ``old`` is None, with a
    ``problem``, where no old validation rows could be read.
    """
    if prepared.parent is None or prepared.old is None:
        return None
    before = run.manifest()["retention"]["before"]
    rows = len(prepared.splits["validation"].examples)
    told: dict[str, Any] = {
        "before": before,
        "new": {"rows": rows, "before": before["validation"], "after": validation.metrics},
        "old": None,
        "replayed": prepared.old.replayed,
        "old_rows": prepared.old.available,
    }
    if prepared.kept is None:
        return told | {"problem": prepared.old.problem or "the runs before have no other validation rows"}
    found = score(KEPT)
    write_results(run, KEPT, prepared.kept, prepared.task, found)
    rows = len(prepared.kept.examples)
    return told | {"old": {"rows": rows, "before": before[KEPT], "after": found.metrics}}
