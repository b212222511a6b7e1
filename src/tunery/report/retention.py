"""What became of old knowledge in a run that goes on from another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunery.report import intervals
from tunery.report.page import Block, Table, Text
from tunery.report.records import Records

_ROWS = {"new": "new validation rows", "old": "old validation rows"}


def kept(records: Records) -> Iterator[Block | None]:
    """The parent, and numbers before and after on new and old validation rows."""
    found, parent = records.manifest.get("retention"), records.manifest.get("parent")
    if not isinstance(found, Mapping) or not isinstance(parent, Mapping):
        return
    name = Path(str(parent.get("path", ""))).name
    yield Text(
        f"This run goes on from {name} and trained on {found.get('replayed', 0):,} of {found.get('old_rows', 0):,} old "
        "rows beside the new ones (train.replay)."
    )
    lines = [line for side in _ROWS if isinstance(found.get(side), Mapping) for line in _lines(side, found[side])]
    if lines:
        yield Table(["rows", "number", "before", "after"], lines, "before: the run that this one goes on from", [0, 1])
    if found.get("problem"):
        yield Text(f"What is kept of the old rows was not measured: {found['problem']}.", "note")


def _lines(side: str, numbers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    after = numbers.get("after") or {}
    for name, before in (numbers.get("before") or {}).items():
        better = "" if intervals.higher_is_better(name) else " (lower is better)"
        rows = f"{_ROWS[side]} ({numbers.get('rows')})"
        yield {"rows": rows, "number": f"{name}{better}", "before": before, "after": after.get(name)}
