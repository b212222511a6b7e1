"""Finds the prompt instead of the weights: ``tunery prompts``.

Prompts written by hand, by the user and by the model itself are scored on development rows, bad ones on few of them
(successive halving, Jamieson & Talwalkar 2016); then words for the labels are searched in the vocabulary, and solved
examples put in front. Everything found is in ``prompts.json``, so that an interrupted search goes on where it was. Test
rows are read once, at the end, for the best prompt written by hand and the best one found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tunery import config as configuration
from tunery.config import Config
from tunery.data.rows import fingerprint
from tunery.decide import candidates as known
from tunery.decide import label_words, ladder, proposals, shots
from tunery.decide.candidates import Candidate
from tunery.decide.ladder import BEST
from tunery.decide.prompt_material import open_material
from tunery.decide.prompt_record import FILE, FIRST, Record, Scored
from tunery.decide.prompt_scores import ClozeScorer, Material, Score, scorer
from tunery.errors import ConfigError, DataError, Interrupted, ModelError
from tunery.run.dataset import load_examples, refuse_bad
from tunery.run.manifest import absolute, run_name
from tunery.run.records import say
from tunery.rundir import RunDir, read_json, write_json, write_text

GOOD = 4
"""Prompts that are shown to the model that is to write others."""
WORDS_FOR, EXAMPLES_FOR = 3, 2
"""Templates for which words, and examples, are searched."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is tried, and when it is enough."""

    given: tuple[str, ...] = ()
    """Templates (cloze) or system prompts (instruct) of the user."""
    rows: int = 256
    """Development rows."""
    proposals: int = 24
    """Prompts that the model is asked to write."""
    words: int = 4
    """Verbalisers from the vocabulary for each of the best templates."""
    shots: int = 4
    """Solved examples in a prompt."""
    draws: int = 4
    """Random choices of them, beside the nearest."""
    metric: str | None = None
    target: float | None = None
    ladder: bool = False
    """Whether to train where no prompt reaches the target."""


def find(config: Config, options: Options) -> Path:
    """Search in a new folder of ``run.dir`` → the folder. Raises TuneryError; nothing is left if it fails at once."""
    material, hashes = open_material(config, options.rows, options.metric)
    config = material.config
    start = Search(None, material, options, {})
    start.check()
    folder = RunDir.create(Path(config.run.dir), config.run.name or f"{run_name(config)}-prompts").path
    record = {
        "status": "running",
        "config": absolute(config).dump(),
        "options": {**asdict(options), "given": list(options.given)},
        "data": hashes,
        "base": material.base.hash(),
    }
    write_json(folder / FILE, record)
    with RunDir(folder).lock():
        _go_on(Search(folder, material, options, record))
    return folder


def _go_on(search: Search) -> None:
    try:
        search.run()
    except KeyboardInterrupt:
        search.keep(status="interrupted")
        raise Interrupted("the search was interrupted", f"tunery resume {search.folder}", str(search.folder)) from None


def is_folder(path: str | Path) -> bool:
    return (Path(path) / FILE).is_file()


def resume(path: str | Path) -> Path:
    """Go on with a search. Raises ModelError if it is over, DataError if the data have changed."""
    folder = Path(path)
    record = dict(read_json(folder / FILE))
    if record["status"] == "completed":
        raise ModelError("this search is completed", "tunery prompts begins a new one", str(path))
    options = Options(**{**record["options"], "given": tuple(record["options"]["given"])})
    with RunDir(folder).lock():
        material, hashes = open_material(configuration.build(record["config"]), options.rows, options.metric)
        if sorted(hashes.values()) != sorted(record["data"].values()):
            raise DataError("the data changed since the search began", "begin a new one", str(path))
        if material.base.hash() != record["base"]:
            raise ModelError("the base model changed since the search began", "begin a new one", str(path))
        _go_on(Search(folder, material, options, record))
    return folder


def summary(folder: Path) -> dict[str, Any]:
    """What ``prompts --json`` prints."""
    record = read_json(folder / FILE)
    found = {key: record.get(key) for key in ("status", "metric", "rows", "tried", "median", "proposed", "unusable")}
    found |= {key: record.get(key) for key in ("top", "hand", "best", "test", "target", "ladder", "verdict")}
    return {"run": str(folder), **found, "config": str(folder / BEST), "next": record.get("next")}


class Search(Record):
    """One search: which prompts are tried, and what is said at the end."""

    def __init__(self, folder: Path | None, material: Material, options: Options, record: dict[str, Any]) -> None:
        super().__init__(folder, material, record)
        self.options = options
        self.cloze = isinstance(self.scorer, ClozeScorer)
        self.seed = material.config.train.seed

    def check(self) -> None:
        """Score the user's own prompts on one row. Raises ConfigError for one that cannot be used."""
        for candidate in self.written():
            if candidate.origin in ("config", "given"):
                self.scorer.score(candidate, 1)

    def run(self) -> None:
        written = self.written()
        say(f"{len(written)} prompts to begin with, {len(self.material.rows)} development rows")
        first = self.scored(written, self.stages()[0])
        if not first:
            problem = self.entry(written[0])["problem"]
            raise ConfigError(f"none of {len(written)} prompts can be used: {problem}", "try --templates FILE")
        found = self.halve([*(candidate for candidate, _ in first), *self.proposed(first)])
        if self.cloze:
            found = self.best_first([*found, *self.scored(self.worded(found), self.stages()[-1])])
        found = self.best_first([*found, *self.halve(self.solved(found))])
        self.finish(found)

    # ------------------------------------------------------------------------------------------- candidates

    def written(self) -> list[Candidate]:
        """By the user and by hand."""
        own = self.material.config.task.model_dump(exclude={"name"})  # type: ignore[union-attr]
        texts = [row.input_text for row in self.material.rows[:FIRST]]
        chinese = known.is_chinese(texts)
        if not self.cloze:
            systems = known.CHINESE_SYSTEMS if chinese else known.SYSTEMS
            listed = [("config", own["system"])] if own["system"] else []
            listed += [("given", text) for text in self.options.given] + [("hand", text) for text in systems]
            return known.distinct(Candidate(origin, {**own, "system": text or None}) for origin, text in listed)
        task = self.material.task
        pair = any(row.text_pair is not None for row in self.material.rows)
        listed = [("config", own["template"])] if own["template"] else []
        listed += [("given", text) for text in self.options.given]
        listed += [("hand", text) for text in known.templates(task.labels, pair, chinese)]
        if own["verbaliser"] and not own["template"]:
            listed.insert(0, ("config", task.default))
        made = [c for origin, text in listed for c in self.variants(Candidate(origin, {**own, "template": text}))]
        return known.distinct(made)

    def variants(self, candidate: Candidate) -> list[Candidate]:
        """The template with the labels themselves or the words given, with words people use, each calibrated too."""
        words = [candidate.task.get("verbaliser")]
        chinese = known.is_chinese([str(candidate.task["template"]).replace("{text}", "").replace("{label}", "")])
        if words[0] is None and (usual := known.known_words(self.material.task.labels, chinese)):
            words.append(usual)
        plain = [candidate.changed(candidate.origin, verbaliser=every) for every in words]
        return [*plain, *(other.changed("calibrated", calibrate=not other.task["calibrate"]) for other in plain)]

    def proposed(self, first: Sequence[Scored]) -> list[Candidate]:
        """What the model writes, having seen the best so far."""
        key = "template" if self.cloze else "system"
        good = list(dict.fromkeys(str(c.task[key]) for c, _ in first if c.task[key]))[:GOOD][::-1]
        if "proposals" not in self.record:
            found, dropped = proposals.propose(self.material, good, self.options.proposals, self.seed)
            self.keep(proposals=found, proposed={"asked": len(found) + sum(dropped.values()), "dropped": dict(dropped)})
            if found or dropped:
                say(f"the model wrote {len(found) + sum(dropped.values())} prompts, {len(found)} can be used")
        own = first[0][0]
        made = [own.changed(origin, **{key: text}) for origin, text in self.record["proposals"]]
        if not self.cloze:
            return made
        plain = self.material.config.task.verbaliser  # type: ignore[union-attr]
        return [v for c in made for v in self.variants(c.changed(c.origin, verbaliser=plain, calibrate=False))]

    def worded(self, found: Sequence[Scored]) -> list[Candidate]:
        """The best templates with words of the vocabulary."""
        assert isinstance(self.scorer, ClozeScorer)
        made = []
        words = self.record.setdefault("words", {})
        for candidate in self.by_template(found, WORDS_FOR) if self.options.words else ():
            if candidate.key not in words:
                words[candidate.key] = label_words.search(self.scorer, candidate, self.options.words)
                self.keep(words=words)
            for verbaliser in words[candidate.key]:
                made += [candidate.changed("words", verbaliser=verbaliser, calibrate=c) for c in (False, True)]
        say(f"{len(made)} prompts with words of the vocabulary")
        return known.distinct(made)

    def solved(self, found: Sequence[Scored]) -> list[Candidate]:
        """The best prompts with solved examples in front."""
        made = []
        for rows in shots.choices(self.material, self.options.shots, self.options.draws, self.seed):
            for candidate in self.by_template(found, EXAMPLES_FOR):
                try:
                    one = shots.with_examples(self.material, candidate, rows)
                except ConfigError as error:
                    self.drop(candidate, error.problem)
                    continue
                made += [one.changed("shots", calibrate=c) for c in (False, True)] if self.cloze else [one]
        if made:
            say(f"{len(made)} prompts with {self.options.shots} solved examples")
        return known.distinct(made)

    def by_template(self, found: Sequence[Scored], count: int) -> list[Candidate]:
        """The best candidate of each of the best templates."""
        key = "template" if self.cloze else "system"
        best: dict[Any, Candidate] = {}
        for candidate, _ in found:
            best.setdefault(candidate.task[key], candidate)
        return list(best.values())[:count]

    # --------------------------------------------------------------------------------------------- the end

    def finish(self, found: Sequence[Scored]) -> None:
        """The best, the test rows, the ladder."""
        assert self.folder
        best, hand = found[0], next(pair for pair in found if pair[0].by_hand)
        configuration_of(self.material, best[0], self.folder / BEST)
        every = self.record["candidates"].values()
        last = [list(entry["scores"].values())[-1]["value"] for entry in every if entry["scores"]]
        self.keep(
            metric=self.material.metric,
            rows=len(self.material.rows),
            tried=len(last),
            median=median(last),
            unusable=dict(Counter(entry["problem"] for entry in every if "problem" in entry)),
            top=[self.told(*pair) for pair in found[:10]],
            hand=self.told(*hand),
            best=self.told(*best),
        )
        if self.material.config.data.test and "test" not in self.record:
            self.keep(test=self.on_test(hand[0], best[0]))
        self.keep(**ladder.climb(self.folder, self.material, self.record, self.options.target, self.options.ladder))
        self.keep(status="completed")

    def told(self, candidate: Candidate, score: Score) -> dict[str, Any]:
        interval = score.interval(self.material.metric)
        return {
            "value": score.value,
            "loss": score.loss,
            "interval": list(interval) if interval else None,
            "origin": candidate.origin,
            "prompt": candidate.task.get("template" if self.cloze else "system"),
            **{key: candidate.task[key] for key in ("verbaliser", "calibrate") if self.cloze},
            "key": candidate.key,
        }

    def on_test(self, hand: Candidate, best: Candidate) -> dict[str, Any] | None:
        """Both on all test rows but those that were among the rows of the search; None if all were."""
        data = self.material.config.data
        examples, bad, _, _ = load_examples(data.test, data, need_target=True)  # type: ignore[arg-type]
        refuse_bad(bad, len(examples) + len(bad), data.on_bad_row)
        seen = {fingerprint(row) for row in (*self.material.rows, *self.material.pool)}
        usable = [row for row in examples if not self.material.task.check(row)]
        rows = [row for row in usable if fingerprint(row) not in seen]
        if len(rows) < len(usable):
            say(f"{len(usable) - len(rows)} test rows stand among the rows of the search too: left out")
        if not rows:
            say("no test row is left: nothing is scored on them")
            return None
        say(f"scoring two prompts on {len(rows)} test rows")
        tester = scorer(replace(self.material, rows=rows))
        return {name: self.told(c, tester.score(c, len(rows))) for name, c in (("hand", hand), ("best", best))} | {
            "rows": len(rows),
            "left_out": len(usable) - len(rows),
        }


def configuration_of(material: Material, candidate: Candidate, path: Path) -> None:
    """Write a configuration with this prompt, for ``tunery train``."""
    values = absolute(material.config).dump()
    values["task"] = {"name": material.task.name, **candidate.task}
    values["run"]["name"] = None
    if candidate.longer:
        values["data"]["max_length"] = material.settings.max_length + candidate.longer
    write_text(path, configuration.dump(configuration.build(values)))

