"""Is one run really better than another? The same test rows, an interval, and what changed row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunery import scoring, stats
from tunery.decide import answers as reading
from tunery.decide import measures
from tunery.decide.answers import LOSSES, Answers
from tunery.decide.pairs import Difference, pair, pair_of
from tunery.decide.sides import Side, check_paths, differing, grouped, named
from tunery.errors import ConfigError

__all__ = ["Difference", "compare", "pair", "pair_of"]

LENGTHS = 4
"""Parts of the rows by the length of their input, each with as many rows."""


def compare(
    runs: Sequence[str | Path] = (),
    *,
    groups: Mapping[str, Sequence[str | Path]] | None = None,
    data: Sequence[str] = (),
    metric: str | None = None,
) -> dict[str, Any]:
    """Compare every run, or group of runs, with the first.

    Args:
        runs: run directories. Those that differ in ``train.seed`` alone are taken as one method.
        groups: or name the methods yourself, each with its runs.
        data: files of test rows that every run answers now; default: the rows that were its ``data.test``.
        metric: the number to compare by; default: the first that the runs report and that is no loss (of classes
            accuracy, or macro F1 where they are uneven).

    Returns what ``tunery compare --json`` prints. Raises DataError for runs whose rows differ.
    """
    given = {name: [str(run) for run in members] for name, members in (groups or {}).items()}
    paths = [str(run) for run in runs] + [run for members in given.values() for run in members]
    check_paths(paths, given, bool(runs))
    found = {path: reading.read(path, data, metric) for path in paths}
    notes = reading.refuse_other_rows(list(found.values()))
    number = primary(list(found.values()), metric)
    sides, alike = (named(given, found), False) if given else grouped(found)
    judged_by = measures.row_number(found[paths[0]].kind, number)
    kept = _judge(sides, judged_by)
    pairs = [_pair(sides[0], side, number, judged_by, kept, alike) for side in sides[1:]]
    if len(pairs) > 1:
        notes.append(f"{len(pairs)} comparisons: each interval is right 95 times in 100, all at once less often")
    return {
        "metric": number,
        "higher_is_better": scoring.number_names()[number].higher_is_better,
        "rows": len(found[paths[0]]),
        "data": found[paths[0]].data,
        "judged_by": judged_by or "right tags",
        "sides": [_side(side, number, differing(sides)) for side in sides],
        "pairs": pairs,
        "notes": notes + _seed_notes(sides, pairs, alike),
    }


def _side(side: Side, number: str, keys: Sequence[str]) -> dict[str, Any]:
    values = [_value(one, number) for one in side.answers]
    return {
        "name": side.name,
        "runs": [one.path for one in side.answers],
        "seeds": side.seeds,
        "value": sum(values) / len(values),
        "values": values,
        "settings": {key: side.settings.get(key) for key in keys},
    }


def _value(answers: Answers, number: str) -> float:
    return measures.value(answers, number) or 0.0


def primary(answers: Sequence[Answers], metric: str | None) -> str:
    """The number to compare by: ``metric``, or the first that all runs report. Raises ConfigError if there is none."""
    if metric and not _computable(answers[0], metric):
        raise ConfigError(f"these rows cannot give {metric!r}", "choose another number", "--metric")
    shared = [name for name in answers[0].numbers if all(name in other.numbers for other in answers)]
    able = [name for name in ([metric] if metric else shared) if _computable(answers[0], name)]
    if not able:
        raise ConfigError("the runs report no number in common", "name one", "--metric")
    return reading.best(able)


def _computable(answers: Answers, number: str) -> bool:
    if number in LOSSES:
        return bool(answers.losses)
    return bool(answers.predictions) and measures.value(answers, number) is not None


# ---------------------------------------------------------------------------------------------- pairs


def _judge(sides: Sequence[Side], number: str | None) -> list[int]:
    """Score every row of every run → the rows that say something, the same ones for all."""
    scores = {one.path: measures.row_scores(one, number) for side in sides for one in side.answers}
    columns = zip(*scores.values(), strict=True)
    kept = [row for row, column in enumerate(columns) if all(score is not None for score in column)]
    for side in sides:
        side.scores = [[scores[one.path][row] or 0.0 for row in kept] for one in side.answers]
    return kept


def _pair(
    first: Side, second: Side, number: str, judged_by: str | None, kept: Sequence[int], alike: bool
) -> dict[str, Any]:
    if measures.of_rows(number):
        found = pair(first.scores, second.scores, alike=alike)
    else:
        sides = [[measures.measure(one, number) for one in side.answers] for side in (first, second)]
        scores = [list(zip(*side.scores, strict=True)) for side in (first, second)]
        differing = sum(one != other for one, other in zip(*scores, strict=True))
        found = pair_of(sides[0], sides[1], len(first.answers[0]), differing, alike=alike)
    values = asdict(found)
    result: dict[str, Any] = {"first": first.name, "second": second.name}
    result |= {key: values[key] for key in ("difference", "tie", "covers", "rows", "more_rows", "seed_deviation")}
    result["interval"] = [found.low, found.high]
    better = (found.difference > 0) == scoring.number_names()[number].higher_is_better
    result["better"] = None if found.tie else second.name if better else first.name
    result["mcnemar"] = _mcnemar(first, second)
    result["classes"] = _classes(first, second)
    result["lengths"] = _lengths(first, second, kept)
    result |= _changed(first, second, judged_by, kept)
    result["verdict"] = _verdict(first, second, number, found, better, alike)
    return result


def _mcnemar(first: Side, second: Side) -> dict[str, Any] | None:
    """Of two runs that give classes."""
    if first.answers[0].kind != "classes" or len(first.answers) + len(second.answers) > 2:
        return None
    right = [
        [p == r for p, r in zip(side.answers[0].predictions, side.answers[0].references, strict=True)]
        for side in (first, second)
    ]
    only = [sum(a and not b for a, b in zip(*order, strict=True)) for order in (right, right[::-1])]
    return {"first_only": only[0], "second_only": only[1], "p": stats.mcnemar(only[0], only[1])}


def _part(first: Side, second: Side, places: Sequence[int]) -> dict[str, Any]:
    """Both sides on some of the judged rows."""
    parts = [[[scores[i] for i in places] for scores in side.scores] for side in (first, second)]
    found = pair(parts[0], parts[1])
    return {
        "rows": len(places),
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "interval": [found.low, found.high],
        "tie": found.tie,
    }


def _classes(first: Side, second: Side) -> list[dict[str, Any]]:
    """Recall of each class, the largest differences first."""
    if first.answers[0].kind != "classes":
        return []
    references = first.answers[0].references
    places = {label: [i for i, r in enumerate(references) if r == label] for label in dict.fromkeys(references)}
    found = [{"class": str(label), **_part(first, second, rows)} for label, rows in places.items()]
    return sorted(found, key=lambda part: -abs(part["difference"]))


def _lengths(first: Side, second: Side, kept: Sequence[int]) -> list[dict[str, Any]]:
    """By quartiles of the length of the input, in characters."""
    import numpy as np

    sizes = np.array([len(first.answers[0].inputs[row]) for row in kept])
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, LENGTHS + 1)).round().astype(int))
    if len(edges) < 3:
        return []
    parts = np.clip(np.searchsorted(edges, sizes, side="left") - 1, 0, len(edges) - 2)
    found = []
    for number in range(len(edges) - 1):
        places = np.flatnonzero(parts == number).tolist()
        if places:
            span = [int(sizes[places].min()), int(sizes[places].max())]
            found.append({"characters": span, **_part(first, second, places)})
    return found


def _changed(first: Side, second: Side, judged_by: str | None, kept: Sequence[int]) -> dict[str, Any]:
    """Rows on which the second is better (fixed) and worse (broken), the largest changes first."""
    sign = 1 if judged_by is None or scoring.number_names()[judged_by].higher_is_better else -1
    fixed: list[tuple[float, int, int]] = []
    broken: list[tuple[float, int, int]] = []
    means = [[sum(column) / len(column) for column in zip(*side.scores, strict=True)] for side in (first, second)]
    for place, row in enumerate(kept):
        change = sign * (means[1][place] - means[0][place])
        if change:
            (fixed if change > 0 else broken).append((abs(change), place, row))
    found = {"fixed": fixed, "broken": broken}
    for rows in found.values():
        rows.sort(key=lambda row: (-row[0], row[1]))
    return {
        name: {"count": len(rows), "rows": [_row(first, second, *row) for row in rows]} for name, rows in found.items()
    }


def _row(first: Side, second: Side, change: float, place: int, row: int) -> dict[str, Any]:
    one = first.answers[0]
    said: dict[str, Any] = {}
    for name, side in (("first", first), ("second", second)):
        texts = [a.predictions[row] if a.predictions else side.scores[i][place] for i, a in enumerate(side.answers)]
        said[name] = texts[0] if len(texts) == 1 else texts
    return {
        "where": one.places[row], "input": one.inputs[row], "reference": one.references[row], **said, "change": change
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- words


def _verdict(first: Side, second: Side, number: str, found: Difference, better: bool, alike: bool) -> str:
    digits = 4 if max(abs(found.first), abs(found.second)) < 10 else 2
    ends = [found.difference, found.low, found.high]
    if not found.tie and not better:  # the difference of the better one
        ends = [-found.difference, -found.high, -found.low]
    change, low, high = (f"{value:+.{digits}f}" for value in ends)
    said = f"{number} {change}, 95 % interval {low} to {high} over {found.covers}"
    if not found.tie:
        names = (second.name, first.name) if better else (first.name, second.name)
        return f"{names[0]} is better than {names[1]}: {said}"
    return f"tie between {first.name} and {second.name}: {said}{'' if alike else '. ' + _needed(found)}"


def _needed(found: Difference) -> str:
    if found.more_rows is not None:
        return f"About {found.more_rows:,} more test rows would decide it, if the difference stays what it is."
    if found.difference == 0 or found.seed_deviation is None:
        return "No difference was seen that more test rows could decide."
    return "More test rows alone would not decide it: the seeds differ too much. More trainings a side would help."


def _seed_notes(sides: Sequence[Side], pairs: Sequence[Mapping[str, Any]], alike: bool) -> list[str]:
    """What the intervals leave out, and how to get it."""
    if alike:
        return ["the runs differ in train.seed alone: they are one method, and what differs between them is chance"]
    if not any(found["covers"] == "rows" for found in pairs):
        return []
    used = {seed for side in sides for seed in side.seeds}
    lines = [f"tunery train {Path(side.answers[0].path) / 'config.yaml'} train.seed={max(used) + 1}" for side in sides]
    return [
        "one training a side: the interval covers the choice of test rows and not the seed; trained with another seed, "
        f"either may be better. To cover it, train each again and name all runs: {'; '.join(lines)}"
    ]
