"""The page of a run: everything its directory tells, the answer to "did it work?" first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunery.report import card, intervals, pages, retention, verdict, words
from tunery.report.answers import calibration, confusion
from tunery.report.examples import samples
from tunery.report.page import Code, Fold, Page, Section, Table, Text, facts, section
from tunery.report.records import LOSSES, Evaluation, Records, read
from tunery.report.training import curves, forgetting, overfitting, prediction
from tunery.rundir import RunDir


def write(run: RunDir) -> tuple[Path, str]:
    """``report.html``, ``report.md`` and the model card → the first, and the sentence on top. Loads no model.

    Raises ModelError for a damaged run directory, ResourceError if a file cannot be written.
    """
    records = read(run)
    if run.model.is_dir():
        card.write(run, records)
    made = page(records)
    file = pages.write(run.path, made)
    if "report_problem" in records.manifest:  # of an earlier try
        run.update_manifest(report_problem=None)
    return file, made.lead


def page(records: Records) -> Page:
    judged = records.judged_by
    sections = [
        _scores(records),
        section("Training", *curves(records), *overfitting(records)),
        section("Forgetting", *forgetting(records)),
        section("Old and new knowledge", *retention.kept(records)),
        *([section("Confusion", *confusion(judged)), section("Calibration", *calibration(judged))] if judged else []),
        section("Rows right and wrong", *samples(judged)) if judged else None,
        _ledger(records),
        section("Time and memory", facts(_cost(records)), *prediction(records)),
        section("Configuration", Fold("every key of this run", [Code(records.config_text)])),
        _environment(records),
    ]
    warnings = [str(line) for line in records.manifest.get("verdicts") or []]
    kept = [part for part in sections if part is not None and part.blocks]
    return Page(f"Run {records.path.name}", verdict.sentence(records), kept, warnings)


# ---------------------------------------------------------------------------------------------- scores


def _scores(records: Records) -> Section:
    """A table for each split that was scored, then what ``tunery eval`` has added."""
    names = [name for name in records.evaluations if not name.endswith("-base")]
    names.sort(key=lambda name: ("test", "validation").index(name) if name in ("test", "validation") else 2)
    tables = [table for name in names if (table := _table(records, records.evaluations[name]))]
    return section("Scores", *tables)


def _table(records: Records, found: Evaluation) -> Table | None:
    if not found.metrics:
        return None
    base, ends = records.base(found), intervals.of(found)
    columns = ["number", "tuned", "95 % interval", "base", *found.baselines]
    rows = []
    first = intervals.headline(list(found.metrics))
    for name in sorted(found.metrics, key=lambda name: name != first):
        low_high = ends.get(name)
        row: dict[str, Any] = {"number": _named(name), "tuned": found.metrics[name]}
        row["95 % interval"] = f"{words.number(low_high[0])} – {words.number(low_high[1])}" if low_high else None
        row["base"] = base.metrics.get(name) if base else None
        row |= {baseline: numbers.get(name) for baseline, numbers in found.baselines.items()}
        rows.append(row)
    used = [c for c in columns if c in ("number", "tuned") or any(row[c] is not None for row in rows)]
    return Table(used, rows, _caption(found), [0])


def _named(number: str) -> str:
    return number if intervals.higher_is_better(number) else f"{number} (lower is better)"


def _caption(found: Evaluation) -> str:
    rows = f"{found.name}: {found.rows:,} rows"
    if found.answered < found.rows:
        about = ", ".join(name for name in found.metrics if name in LOSSES)
        rows += f", of which {found.answered:,} were answered{f' ({about}: all of them)' if about else ''}"
    return rows


# --------------------------------------------------------------------------------------------- the rest


def _ledger(records: Records) -> Section:
    ledger = records.ledger
    if not ledger:
        return section("Where the rows went")
    found: dict[str, Any] = {"read": ledger.get("rows_read")}
    found |= {f"used for {split}": count for split, count in (ledger.get("splits") or {}).items()}
    found |= {f"dropped: {reason}": count for reason, count in (ledger.get("dropped") or {}).items()}
    known = ("rows_read", "used", "splits", "dropped", "files", "attributes", "notes", "notes_left_out")
    found |= {name: value for name, value in ledger.items() if name not in known and isinstance(value, int)}
    if copies := records.manifest.get("augmented"):
        found["augmented copies"] = copies
    table = Table(["rows", "count"], [{"rows": name, "count": count} for name, count in found.items()])
    notes = ledger.get("notes") or []
    listed = Table(["where", "note"], [dict(note) for note in notes[:50]])
    title = f"notes on single rows ({min(len(notes), 50)} of {len(notes) + ledger.get('notes_left_out', 0)})"
    where = Text("Every row read is in exactly one of these; ledger.json tells which row is where.")
    return section("Where the rows went", where, table, Fold(title, [listed]) if notes else None)


def _cost(records: Records) -> dict[str, Any]:
    manifest = records.manifest
    parameters = manifest.get("parameters") or {}
    total, trained = parameters.get("total"), parameters.get("trainable")
    shown = {
        "steps": manifest.get("steps"),
        "kept weights of step": manifest.get("best_step"),
        "stopped early": manifest.get("stopped_early"),
        "time in training steps": _if(words.duration, manifest.get("seconds")),
        "time of the whole run": _if(words.duration, manifest.get("wall_seconds")),
        "tokens a second": _if(lambda value: f"{value:,.0f}", manifest.get("tokens_per_second")),
        "tokens with a loss": manifest.get("supervised_tokens"),
        "peak memory": _if(words.size, manifest.get("peak_memory_bytes")),
        "parameters": total,
        "of them trained": f"{trained:,} ({trained / total:.2%})" if total and trained is not None else None,
        "size of what was trained": _if(words.size, manifest.get("adapter_bytes")),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _if(write: Any, value: Any) -> str | None:
    return write(value) if isinstance(value, int | float) else None


def _environment(records: Records) -> Section:
    manifest = records.manifest
    base = manifest.get("base") or {}
    shown: dict[str, Any] = {
        "started": manifest.get("started"),
        "finished": manifest.get("finished"),
        "seed": _text(manifest.get("seed")),
        "device": manifest.get("device"),
        "dtype": manifest.get("dtype"),
        "threads": manifest.get("threads"),
        "Python": manifest.get("python"),
        **(manifest.get("versions") or {}),
        "git commit of the folder": manifest.get("commit"),
        "command": " ".join(map(str, manifest.get("argv") or [])) or None,
        "base model": base.get("name"),
        "SHA-256 of the base": base.get("hash"),
    }
    shown |= {f"SHA-256 of {file}": digest for file, digest in (manifest.get("data") or {}).items()}
    return section("Environment", facts({name: value for name, value in shown.items() if value is not None}))


def _text(value: Any) -> str | None:
    """A number that is a name: without commas."""
    return None if value is None else str(value)
