"""The learning curve as a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunery.rundir import writing

INK, CURVE, AHEAD = "#333333", "#1f6fb4", "#c2571a"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Scores of all trainings, the fitted curve with its interval, what is predicted; rows on a logarithmic axis."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells that it builds a cache of fonts
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    rows, fitted, low, high = zip(*record["line"], strict=True)
    axes.fill_between(rows, low, high, color=CURVE, alpha=0.15, linewidth=0, label="95 % interval of a mean")
    axes.plot(rows, fitted, color=CURVE, label=f"fitted: {record['fit']['form']}")
    points = [(size["rows"], value) for size in record["scores"] for value in size["values"]]
    axes.plot(*zip(*points, strict=True), "o", color=INK, markersize=4, label="trainings")
    for number, prediction in enumerate(record["predictions"]):
        ends = [[prediction["score"] - prediction["interval"][0]], [prediction["interval"][1] - prediction["score"]]]
        label = "predicted" if number == 0 else None
        axes.errorbar([prediction["rows"]], [prediction["score"]], ends, fmt="s", color=AHEAD, capsize=4, label=label)
    axes.axvline(record["rows"], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(" all rows", (record["rows"], 0.02), xycoords=("data", "axes fraction"), fontsize=8, color=INK)
    axes.set_xscale("log")
    ticks = [size["rows"] for size in record["scores"]] + [prediction["rows"] for prediction in record["predictions"]]
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="x", rotation=30)
    axes.set(xlabel="training rows", ylabel=f"{record['metric']} of {record['split']} rows")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    with writing(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
