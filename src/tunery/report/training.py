"""What happened while a run was trained: curves, overfitting, forgetting, and what had been predicted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tunery.report import pictures, words
from tunery.report.page import Block, Picture, Table, Text
from tunery.report.pictures import Point
from tunery.report.records import Records

MOST_CURVES = 5
SMOOTH = 60
"""Points of the training loss: means of neighbouring steps, whose own noise would hide the course."""


def curves(records: Records) -> Iterator[Block | None]:
    """Training loss, validation numbers, learning rate."""
    kept = records.manifest.get("best_step") if records.manifest.get("steps") else None
    losses = [(r["step"], r["loss"]) for r in records.steps if "loss" in r and "step" in r]
    checked = _validation(records, "loss")
    averaged = len(losses) > SMOOTH
    caption = "Loss" + (", means of neighbouring steps" if averaged else "")
    caption += f"; the dashed line is step {kept}, whose weights are kept" if kept is not None else ""
    name = "training rows, while they are learnt"
    yield pictures.curves(
        {name: pictures.thinned(losses, SMOOTH), "validation rows": checked}, "step", "loss", caption, mark=kept
    )
    yield _scores(records, kept)
    rates = [(r["step"], r["lr"]) for r in records.steps if "lr" in r]
    yield pictures.curves({"learning rate": rates}, "step", "learning rate", "Learning rate")


def _validation(records: Records, name: str) -> list[tuple[float, float]]:
    found = ((r.get("step"), r["validation"].get(name)) for r in records.validations)
    return [(step, value) for step, value in found if step is not None and value is not None]


def _scores(records: Records, kept: int | None) -> Picture | None:
    """Numbers between 0 and 1 together; if there are none, the first number that is no loss."""
    names = dict.fromkeys(name for r in records.validations for name in r["validation"])
    series = {name: _validation(records, name) for name in names if name not in ("loss", "perplexity")}
    shares = {name: points for name, points in series.items() if all(0 <= value <= 1 for _, value in points)}
    chosen = dict(list((shares or dict(list(series.items())[:1])).items())[:MOST_CURVES])
    label = "score" if len(chosen) > 1 else next(iter(chosen), "")
    return pictures.curves(chosen, "step", label, "Numbers on the validation rows", mark=kept)


def overfitting(records: Records) -> Iterator[Block | None]:
    """The gap between validation and training loss, where it was measured on the same weights."""
    found = records.manifest.get("overfitting")
    pairs = [(r["step"], r["losses"]) for r in records.validations if isinstance(r.get("losses"), Mapping)]
    if len(pairs) > 1:
        series = {
            f"{side} rows": [(step, losses[side]) for step, losses in pairs if side in losses]
            for side in ("training", "validation")
        }
        yield pictures.curves(series, "step", "loss", "Loss of training and validation rows with the same weights")
    if isinstance(found, Mapping):
        yield _told(found)


def _told(found: Mapping[str, Any]) -> Text:
    gap, since = found.get("gap"), found.get("since_step")
    gap = float(gap) if isinstance(gap, int | float) else None
    if since is None:
        said = f" (it is {words.score(gap)})" if gap is not None else ""
        return Text(f"No overfitting: the gap between validation and training loss did not grow{said}.")
    size = f" to {words.score(gap)}" if gap is not None else ""
    if found.get("rose") is False:
        return Text(
            f"The gap between validation and training loss grew{size} from step {since} on, while the validation "
            "loss still fell.",
            "note",
        )
    lowest = found.get("lowest_at_step")
    best = f"; the validation loss was lowest at step {lowest}" if lowest is not None else ""
    text = f"Overfitting: the gap between validation and training loss grew{size} from step {since} on{best}."
    return Text(text, "note")


def forgetting(records: Records) -> Iterator[Block | None]:
    """What the training did to general text."""
    found = records.manifest.get("forgetting")
    if not isinstance(found, Mapping) or not isinstance(found.get("relative"), int | float):
        return
    before, after = (_number(found.get(key)) for key in ("before", "after"))
    yield Text(
        f"Loss on general text ({found.get('text', 'text')}): {before} before, {after} after, {found['relative']:+.1%}."
    )
    probes = found.get("probes")
    if isinstance(probes, Mapping) and probes.get("questions"):
        yield Text(
            f"General questions answered rightly: {probes.get('before')} before, {probes.get('after')} after, "
            f"of {probes['questions']}."
        )
    yield from _scales(records)


def _scales(records: Records) -> Iterator[Block | None]:
    """The curve of quality against forgetting over the scale of what was learnt."""
    curve = [p for p in records.forgetting.get("curve") or [] if {"scale", "quality", "forgetting"} <= p.keys()]
    if not curve:
        return
    quality, scale = str(records.forgetting.get("quality", "loss")), records.forgetting.get("scale")
    bound = records.forgetting.get("bound")
    chosen = "no scale keeps within the bound" if scale is None else f"scale {scale:g} was chosen"
    said = f"Quality against forgetting at several scales of what was learnt; {chosen}"
    said += f" for at most {bound:.2%}" if isinstance(bound, int | float) else ""
    points = [Point(f"{p['scale']:g}", p["forgetting"], p["quality"]) for p in curve]
    lower = quality in ("loss", "perplexity")
    yield pictures.pareto(points, "forgetting", f"validation {quality}", said, higher_is_better=not lower, unit="share")
    columns = ["scale", "quality", "forgetting"]
    rows = [{**p, "scale": f"{p['scale']:g}", "forgetting": f"{p['forgetting']:+.2%}"} for p in curve]
    strong = [i for i, p in enumerate(curve) if p["scale"] == scale]
    yield Table(columns, rows, f"quality: validation {quality}", strong)


def prediction(records: Records) -> Iterator[Block | None]:
    """Predicted beside actual time and memory."""
    predicted, errors = (records.manifest.get(key) for key in ("predicted", "prediction_error"))
    if not isinstance(predicted, Mapping) or not isinstance(errors, Mapping):
        return
    rows = []
    for key, title, write, actual in (
        ("seconds", "time", words.duration, records.manifest.get("wall_seconds") or records.manifest.get("seconds")),
        ("peak_memory_bytes", "peak memory", words.size, records.manifest.get("peak_memory_bytes")),
    ):
        found = [value for value in (predicted.get(key), actual, errors.get(key)) if isinstance(value, int | float)]
        if len(found) == 3:
            row = {"": title, "predicted": write(found[0]), "actual": write(found[1]), "error": f"{found[2]:+.0%}"}
            rows.append(row)
    if rows:
        yield Table(["", "predicted", "actual", "error"], rows, "Predicted before training, and what it was")


def _number(value: Any) -> str:
    return words.score(value) if isinstance(value, int | float) and math.isfinite(value) else "–"
