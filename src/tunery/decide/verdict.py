"""What a race says in the end: one sentence, and who is meant by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunery.decide.language import Language
from tunery.decide.standings import Candidate, Difference, Measure

NOBODY = "No entrant finished: give the race more time (--budget), or see why they failed."
_SHOWN = 3  # names of those that cannot be told apart


@dataclass(frozen=True, slots=True)
class Verdict:
    """``winner``: who to take; None if nobody finished."""

    winner: str | None
    best: str | None
    """Highest on the validation rows."""
    tied: tuple[str, ...]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        return {"winner": self.winner, "best": self.best, "tied": list(self.tied), "recommendation": self.sentence}


@dataclass(frozen=True, slots=True)
class Rows:
    """On which rows the candidates are compared."""

    split: str
    count: int
    measure: Measure


def decide(
    candidates: Sequence[Candidate],
    best: Candidate | None,
    differences: Sequence[Difference],
    rows: Rows,
    language: Language | None,
    base: str,
    few: bool,
) -> Verdict:
    """Whom to take.

    Args:
        candidates: all that were scored on the rows that decide, ``best`` among them.
        best: the highest on the validation rows.
        differences: between the best and each of the others.
        few: with few training rows a tie goes to what was made for few; else to the cheapest.
    """
    if best is None:
        return Verdict(None, None, (), NOBODY)
    by_name = {candidate.name: candidate for candidate in candidates}
    tied = tuple(d.second for d in differences if d.tie)
    among = [best, *(by_name[name] for name in tied)]
    if best.kind == "baseline" and not any(candidate.kind == "method" for candidate in among):
        return Verdict(best.name, best.name, tied, _no_model(best, by_name, differences, rows, language, base))
    if better := [d for d in differences if d.high < 0]:  # the validation rows chose, and other rows say otherwise
        other = by_name[min(better, key=lambda d: d.difference).second]
        return Verdict(other.name, best.name, tied, _overturned(best, other, rows))
    if not tied:
        return Verdict(best.name, best.name, (), _clear(best, differences, rows))
    chosen = min(among, key=lambda c: (not (few and c.few_shot), _cost(c)))
    return Verdict(chosen.name, best.name, tied, _tie(chosen, among, rows, few))


def heeding(sentence: str, leak: str | None) -> str:
    """The sentence, led by a leak where there is one: a high score is then what the leak gives, not what was learnt."""
    if leak is None:
        return sentence
    return f"Mend the leak first, then race again: {leak}, so no score here can be trusted. As measured: {sentence}"


def _cost(candidate: Candidate) -> tuple[int, int, float]:
    """No model, then no training, then the smallest to keep, then the fastest to train."""
    return ({"baseline": 0, "control": 1}.get(candidate.kind, 2), candidate.bytes, candidate.seconds)


def _said(candidate: Candidate) -> str:
    return f"{candidate.name} (no model)" if candidate.kind == "baseline" else candidate.name


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if 0 <= value < 1 else f"{value:.3f}"


def _by(difference: Difference) -> str:
    return f"{difference.difference:.3f} (95 % interval {difference.low:.3f} to {difference.high:.3f})"


def _reaches(candidate: Candidate, rows: Rows) -> str:
    return f"{_number(candidate.mean)} {rows.measure.name} on the {rows.count} {rows.split} rows"


def _no_model(
    best: Candidate,
    by_name: dict[str, Candidate],
    differences: Sequence[Difference],
    rows: Rows,
    language: Language | None,
    base: str,
) -> str:
    advice = "choose a base that knows these texts better"
    if language and not language.known:
        advice = f"{language.advice} ({language.reason(base)})"
    beaten = [d for d in differences if by_name[d.second].kind == "method"]
    if not beaten:
        return f"Use {best.name}, a baseline without any model, or {advice}: no tuned entrant finished."
    nearest = min(beaten, key=lambda d: d.difference)
    return (
        f"A baseline without any model beats every tuned entrant: {best.name} reaches {_reaches(best, rows)}, "
        f"{_by(nearest)} better than {nearest.second} ({_number(by_name[nearest.second].mean)}); use it, or {advice}."
    )


def _clear(best: Candidate, differences: Sequence[Difference], rows: Rows) -> str:
    said = f"Take {_said(best)}: {_reaches(best, rows)}"
    if not differences:
        return f"{said}; nothing else finished."
    nearest = min(differences, key=lambda d: d.difference)
    return f"{said}, {_by(nearest)} better than the next, {nearest.second}."


def _overturned(best: Candidate, other: Candidate, rows: Rows) -> str:
    return (
        f"Take {_said(other)}: {_reaches(other, rows)}, better than {_said(best)}, which the validation rows preferred."
    )


def _tie(chosen: Candidate, among: Sequence[Candidate], rows: Rows, few: bool) -> str:
    others, means = [_said(candidate) for candidate in among[:_SHOWN]], [candidate.mean for candidate in among]
    more = f" and {len(among) - _SHOWN} more" if len(among) > _SHOWN else ""
    why = "which is made for few rows" if few and chosen.few_shot else "the cheapest of them"
    if chosen.kind == "baseline":
        why = "which needs no model"
    elif chosen.kind == "control":
        why = "which needs no training"
    best = among[0]
    doubt = "" if chosen is best else f"; more {rows.split} rows may show that {_said(best)} is better"
    return (
        f"Tie: {rows.count} {rows.split} rows cannot tell {', '.join(others)}{more} apart "
        f"({rows.measure.name} {_number(min(means))} to {_number(max(means))}); take {_said(chosen)}, {why}{doubt}."
    )
