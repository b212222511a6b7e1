"""Scores of prompts as they stand in prompts.json: made once, on few rows first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tunery.decide.candidates import Candidate
from tunery.decide.prompt_scores import Material, Score, scorer
from tunery.errors import ConfigError, DataError
from tunery.run.records import say
from tunery.rundir import write_json

FILE = "prompts.json"
FIRST = 32
"""Rows of the first stage; each other one has twice as many."""
FINALISTS = 4
"""Prompts that are scored on all rows, at least."""
Scored = tuple[Candidate, Score]


class Record:
    """``record`` is what stands in prompts.json; what is in it already is not computed again.

    Args:
        folder: where it is written; None: nowhere.
    """

    def __init__(self, folder: Path | None, material: Material, record: dict[str, Any]) -> None:
        self.folder, self.material, self.record = folder, material, record
        self.scorer = scorer(material)

    def stages(self) -> list[int]:
        """Numbers of rows, doubled from stage to stage, all at the end."""
        rows, size, found = len(self.material.rows), FIRST, []
        while size < rows:
            found.append(size)
            size *= 2
        return [*found, rows]

    def halve(self, candidates: Sequence[Candidate]) -> list[Scored]:
        """All on few rows, the better half of them on twice as many, and so on → those scored on all rows, best
        first. The best one written by hand always goes along.
        """
        scored: list[Scored] = []
        for rows in self.stages():
            scored = self.scored(candidates, rows)
            if not scored:
                return []
            best, score = scored[0]
            say(f"{len(scored)} prompts on {rows} rows: {self.material.metric} {score.value:.4f}, {_shown(best)}")
            kept = [candidate for candidate, _ in scored[: max(FINALISTS, (len(scored) + 1) // 2)]]
            hand = [candidate for candidate, _ in scored if candidate.by_hand][:1]
            candidates = kept if any(candidate.by_hand for candidate in kept) else [*kept, *hand]
        return scored

    def scored(self, candidates: Iterable[Candidate], rows: int) -> list[Scored]:
        """Best first, without those that cannot be used."""
        waiting = list(candidates)
        self.scorer.expect(c for c in waiting if str(rows) not in self.entry(c)["scores"])
        found = [(candidate, self.score(candidate, rows)) for candidate in waiting]
        return self.best_first((candidate, score) for candidate, score in found if score is not None)

    def score(self, candidate: Candidate, rows: int) -> Score | None:
        """None if this prompt cannot be used."""
        entry = self.entry(candidate)
        if str(rows) not in entry["scores"] and "problem" not in entry:
            try:
                score = self.scorer.score(candidate, rows)
            except (ConfigError, DataError) as error:
                self.drop(candidate, error.problem)
                return None
            entry["scores"][str(rows)] = {"value": score.value, "loss": score.loss}
            self.keep()
        return Score(rows=rows, **entry["scores"][str(rows)]) if "problem" not in entry else None

    def entry(self, candidate: Candidate) -> dict[str, Any]:
        every = self.record.setdefault("candidates", {})
        found: dict[str, Any] = every.setdefault(candidate.key, {**candidate.plain(), "scores": {}})
        return found

    def drop(self, candidate: Candidate, problem: str) -> None:
        self.entry(candidate)["problem"] = problem
        self.keep()

    def best_first(self, scored: Iterable[Scored]) -> list[Scored]:
        sign = -1 if self.material.higher_is_better else 1
        return sorted(scored, key=lambda found: (sign * found[1].value, found[1].loss))

    def keep(self, **changes: Any) -> None:
        self.record |= changes
        if self.folder:
            write_json(self.folder / FILE, self.record)


def _shown(candidate: Candidate) -> str:
    prompt = str(candidate.task.get("template") or candidate.task.get("system") or "no system prompt")
    return repr(prompt if len(prompt) < 80 else f"…{prompt[-78:]}")
