"""tunery check"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, table

MOST = 5  # findings of one kind that are printed
MOST_LABELS = 15  # labels for a table; beyond, only the most and the least frequent are named


def show(result: dict[str, Any]) -> None:
    click.echo(
        f"{result['rows_read']:,} rows read, {result['used']:,} used; "
        f"format {result['format']}, task {result['task']}, model {result['model']}"
    )
    for note in result["notes"]:
        click.echo(f"  {note}")
    _splits(result)
    _labels(result["labels"])
    _findings(result["findings"])
    click.echo()
    if refused := result["refused"]:
        click.echo(f"train would refuse this data: {refused['where']}: {refused['problem']}\n→ {refused['hint']}")
    else:
        click.echo("train would accept this data")


def _splits(result: Mapping[str, Any]) -> None:
    click.echo(f"\ntokens per row, cut at {result['max_length']:,} (data.max_length)")
    supervised = "targets" if result["labels"] else "supervised"
    rows = [
        {
            "split": name,
            "rows": f"{part['rows']:,}",
            **{key: f"{value:,}" for key, value in part["lengths"].items()},
            "tokens": f"{part['tokens']:,}",
            supervised: f"{part['supervised_tokens']:,}",
            "truncated": f"{part['truncated']:,}",
            "windows": f"{part['windows'] + part['rows']:,}",
        }
        for name, part in result["details"].items()
    ]
    columns = ["split", "rows", "min", "median", "p95", "max", "tokens", supervised, "truncated"]
    table(rows, columns + ["windows"] * bool(result["windows"]))
    for name, part in result["details"].items():
        if part["estimated_from"]:
            click.echo(f"{name}: tokens and cuts are estimates from {part['estimated_from']:,} rows")
    if result["cleaned"]:
        click.echo(f"cleaned: {result['cleaned']:,} rows changed (tunery show --before-after)")
    if result["augmented"]:
        click.echo(f"augmented: {result['augmented']:,} copies of training rows, in the tokens but not among the rows")
    if result["dropped"]:
        click.echo("dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in result["dropped"].items()))


def _labels(labels: Mapping[str, Mapping[str, int]]) -> None:
    names = list(dict.fromkeys(label for counts in labels.values() for label in counts))
    if not names:
        return
    click.echo()
    if len(names) <= MOST_LABELS:
        rows = [{"label": n, **{split: counts.get(n, 0) for split, counts in labels.items()}} for n in names]
        table(rows, ["label", *labels])
        return
    for split, counts in labels.items():
        ends = [f"{label} {count}" for label, count in counts.items()]
        click.echo(f"{split}: {len(counts)} labels; most {', '.join(ends[:3])}; least {', '.join(ends[-3:])}")


def _findings(findings: list[dict[str, Any]]) -> None:
    click.echo()
    if not findings:
        click.echo("no findings")
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        by_kind.setdefault(finding["kind"], []).append(finding)
    for kind, found in by_kind.items():
        click.echo(f"{kind} ({len(found):,})")
        for finding in found[:MOST]:
            click.echo(f"  {finding['file']}:{finding['line']}: {finding['message']}")
        if len(found) > MOST:
            click.echo(f"  … and {len(found) - MOST:,} more (all with --json)")


@click.command()
@config_arguments
@click.option("--ledger", type=click.Path(dir_okay=False), help="write where every input row went, as CSV")
@verb(show)
def command(arguments: tuple[str, ...], ledger: str | None) -> dict[str, Any]:
    """Look the data over as train would, and report everything odd; trains nothing.

    Counts rows, tokens, supervised tokens and labels; finds bad and too long rows, duplicates, conflicting
    labels, rows of train that stand in test, and templates that do not fit. Exit code 3 if train would refuse
    the data.
    """
    config = read_config(arguments)
    from tunery.run.check import check

    return check(config, ledger)
