"""tunery curve"""

from __future__ import annotations

from typing import Any

import click

from tunery.cli._app import verb
from tunery.cli._text import config_arguments, read_config, table


def show(result: dict[str, Any]) -> None:
    metric, split = result["metric"], result["split"]
    click.echo(f"{metric} of {split} rows, by rows trained on ({len(result['seeds'])} seeds)\n")
    table(
        [
            {"rows": f"{s['rows']:,}", "mean": s["mean"], "from": min(s["values"]), "to": max(s["values"])}
            for s in result["scores"]
        ],
        ["rows", "mean", "from", "to"],
    )
    trained = result["scores"][-1]["rows"]
    click.echo(f"\nexpected, and what it is more than with {trained:,} rows")
    rows = []
    for prediction in result["predictions"]:
        times = prediction["rows"] / result["rows"]
        values = {"rows": f"{prediction['rows']:,}" + (f" ({times:g} x all)" if times != 1 else " (all)")}
        values |= {metric: f"{prediction['score']:.4f}", "95 % interval": _span(prediction["interval"], "")}
        values |= {"gain": f"{prediction['gain']:+.4f}", "of the gain": _span(prediction["gain_interval"], "+")}
        rows.append(values)
    table(rows, ["rows", metric, "95 % interval", "gain", "of the gain"])
    last = result["last_doubling"]
    if last["difference"] is not None:
        ends = f", 95 % interval {_span(last['interval'], '+')} over {last['covers']}" if last["interval"] else ""
        sizes = f"from {last['from']:,} to {last['to']:,} rows"
        tie = ": a tie" if last["tie"] else ""
        click.echo(f"\nthe last doubling, {sizes}, brought {last['difference']:+.4f}{ends}{tie}")
    click.echo(f"\n{result['verdict']}")
    for point in result["points"]:
        if point["status"] == "failed":
            click.echo(f"failed: {point['rows']} rows, seed {point['seed']}: {point['problem']}")
    click.echo(f"\ncurve: {result['curve']} (curve.png is the picture)")


def _span(ends: list[float], sign: str) -> str:
    return f"{min(ends):{sign}.4f} to {max(ends):{sign}.4f}"


@click.command()
@config_arguments
@click.option("--share", default=1.0, show_default=True, type=float, help="share of the training rows used at most")
@click.option("--sizes", default=5, show_default=True, type=click.IntRange(3), help="sizes, each half of the next")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(2), help="trainings of each size")
@click.option("--metric", help="number to look at; default: the first that is no loss")
@verb(show)
def command(arguments: tuple[str, ...], share: float, sizes: int, seeds: int, metric: str | None) -> dict[str, Any]:
    """Train on growing parts of the rows and extrapolate: would more data help?

    Reads CONFIG and overrides as train does. Scores are those of the test rows if data.test names some, else of the
    validation rows. Writes a folder of runs with curve.json and curve.png; tunery resume goes on with one.
    """
    config = read_config(arguments)
    from tunery.decide import curve

    return curve.begin(config, share=share, sizes=sizes, seeds=seeds, metric=metric)
