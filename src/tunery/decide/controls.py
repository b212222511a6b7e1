"""What a tuned model must be measured against: guesses without a model, the base as it is, labels without a meaning.

The labels of the last are drawn anew for training and validation rows together, the same for rows with the same text.
Nothing can be learnt from them that holds for other rows; but what has read validation rows in training, or copies of
them, knows their labels by heart. A score above the most frequent label is then a leak, or a defect in the scoring.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery import baselines
from tunery.config import Config
from tunery.data.findings import Finding
from tunery.data.rows import Rows
from tunery.data.soft import compiled
from tunery.decide.arms import CLOZE, Arm
from tunery.protocols import Example, Task
from tunery.run.encode import model_limit
from tunery.rundir import write_jsonl

ZERO, FEW, SHUFFLED = "zero-shot", "few-shot", "shuffled-labels"
SHOTS = 2
"""Examples of each label in the prompt, with many labels fewer in all."""
MOST_SHOTS = 8
LONG = 300
"""Characters up to which a text is taken as an example."""
FEW_LENGTH = 1024
"""Tokens of a prompt with examples."""
NOTHING = {"name": "lora"}
"""A method that adds nothing while no step is taken."""
SURE = 0.01
"""Chance of calling an innocent run a leak, for each of the two that are looked at."""


# --------------------------------------------------------------------------------- the base as it is


def untrained(
    config: Config, task: Task, base: Any, trains: Mapping[int, Sequence[Example]], no_cloze: str
) -> tuple[list[Arm], dict[str, str]]:
    """Arms that score the base without training, and why others are not applicable, by name.

    Args:
        trains: the training rows of each seed; examples for the prompt are among them.
        no_cloze: why there is none (``arms.no_cloze``).
    """
    if task.output == "text" or task.kinds[0] == "loss":
        arms = [Arm(ZERO, "control", {"method": NOTHING}, steps=0)]
        if config.task_name == "instruct" and not getattr(config.task, "system", None):
            seeded = {seed: {"task": {**_dumped(config), "system": _answered(rows)}} for seed, rows in trains.items()}
            return [*arms, Arm(FEW, "control", {"method": NOTHING}, steps=0, seeded=seeded)], {}
        return arms, {FEW: f"not applicable: task {config.task_name} has no place for examples"}
    if no_cloze and config.task_name != CLOZE:
        why = f"not applicable: a new head knows nothing before training, and there is no cloze ({no_cloze})"
        return [], {ZERO: why, FEW: why}
    section: dict[str, Any] = _dumped(config) if config.task_name == CLOZE else {"name": CLOZE}
    zero = Arm(ZERO, "control", {"task": section, "method": NOTHING}, steps=0)
    if base.family != "decoder":
        return [zero], {FEW: "not applicable: examples in the prompt are for decoders"}
    template: str = section.get("template") or "Text: {text}\nLabel: {label}"
    words: dict[str, list[str]] | None = section.get("verbaliser")
    shown = {seed: _template(template, words, rows) for seed, rows in trains.items()}
    if not all(shown.values()):
        return [zero], {FEW: "not applicable: no short examples of every label, or the texts come in pairs"}
    length = min(max(config.data.max_length or 0, FEW_LENGTH), model_limit(base))
    changes: dict[str, dict[str, Any]] = {"method": NOTHING, "data": {"max_length": length}}
    seeded = {seed: {"task": {**section, "template": text}} for seed, text in shown.items()}
    return [zero, Arm(FEW, "control", changes, steps=0, seeded=seeded)], {}


def _dumped(config: Config) -> dict[str, Any]:
    return config.task.model_dump(mode="json") if config.task else {}


def examples_of(train: Sequence[Example]) -> list[Example]:
    """Short ones of every label in turn, in the order of the rows; few enough for a prompt."""
    counts: Counter[str] = Counter(str(example.label) for example in train)
    each = min(SHOTS, max(MOST_SHOTS // max(len(counts), 1), 1))
    taken: Counter[str] = Counter()
    found = []
    for example in train:
        label = str(example.label)
        if (
            taken[label] < each
            and len(example.text) + len(example.text_pair or "") <= LONG
            and "[soft:" not in example.text
        ):
            taken[label] += 1
            found.append(example)
        if len(found) == each * len(counts):
            break
    return found if len(taken) == len(counts) and len(counts) <= MOST_SHOTS else []


def _template(template: str, verbaliser: dict[str, list[str]] | None, train: Sequence[Example]) -> str | None:
    """The template with filled-in examples before it; None if there are none, or the texts come in pairs."""
    from tunery.data import cloze

    chosen = examples_of(train)
    if not chosen or any(example.text_pair is not None for example in chosen) or compiled(template) != template:
        return None
    parsed = cloze.parse(template)
    shown = []
    for example in chosen:
        word = verbaliser[str(example.label)][0] if verbaliser else str(example.label)
        shown.append(parsed.fill({"text": example.text}, word).text)
    return "".join(text.replace("{", "{{").replace("}", "}}") + "\n\n" for text in shown) + template


def _answered(train: Sequence[Example]) -> str:
    """Questions with their answers, for the system message."""
    pairs: list[str] = []
    for example in train:
        if len(pairs) == SHOTS * 2:
            break
        if len(example.messages) >= 2 and sum(len(message.content) for message in example.messages) <= 2 * LONG:
            asked, answer = example.messages[-2].content, example.messages[-1].content
            pairs.append(f"Question: {asked}\nAnswer: {answer}")
    return "Answer as in these examples.\n\n" + "\n\n".join(pairs)


# ------------------------------------------------------------------------------------ no model at all


def guesses(task: Task, train: Rows, parts: dict[str, Rows], folder: Path) -> tuple[list[str], float]:
    """``folder/SPLIT/NAME.jsonl`` with the guesses of each baseline → their names, seconds taken."""
    fitted = baselines.fit(task, train)
    for split, rows in parts.items():
        examples = [example for example in rows if task.reference(example) not in (None, ())]
        for name, guess in fitted.guesses.items():
            found = zip(examples, guess(examples), strict=True)
            records = [{"where": e.where, "prediction": v, "reference": task.reference(e)} for e, v in found]
            write_jsonl(folder / split / f"{name}.jsonl", records)
    return list(fitted.guesses), fitted.seconds


# ---------------------------------------------------------------------------------- meaningless labels


def shuffled(config: Config, train: Rows, validation: Rows, folder: Path, method: Arm, steps: int) -> Arm:
    """An arm that trains on labels drawn anew; writes its files into ``folder``."""
    parts = drawn({"train": train, "validation": validation}, config.train.seed)
    data: dict[str, Any] = dict.fromkeys(("test", "group", "time", "format", "label_separator", "encoding"))
    data |= {"columns": {}, "clean": [], "augment": [], "labels": config.data.label_names, "near_duplicates": False}
    data |= {"on_leak": "warn", "on_duplicate": "warn", "on_conflict": "warn"}
    for split, rows in parts.items():
        file = folder / f"{SHUFFLED}-{split}.jsonl"
        write_jsonl(file, [_row(example, label) for example, label in rows])
        data[split] = str(file.absolute())
    return Arm(SHUFFLED, "control", {**method.changes, "data": data}, steps=steps)


def _row(example: Example, label: str) -> dict[str, Any]:
    pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
    return {"text": example.text, **pair, "label": label}


def drawn(parts: dict[str, Rows], seed: int) -> dict[str, list[tuple[Example, str]]]:
    """Every row with the label of another one; rows with the same text get the same."""
    labels: dict[int, str] = {}
    for rows in parts.values():
        for place, key in enumerate(rows.inputs.tolist()):
            labels.setdefault(key, str(rows.label(place)))
    values = list(labels.values())
    random.Random(seed).shuffle(values)
    new = dict(zip(labels, values, strict=True))
    return {
        split: [(example, new[key]) for example, key in zip(rows, rows.inputs.tolist(), strict=True)]
        for split, rows in parts.items()
    }


def by_heart(task: Task, parts: dict[str, list[tuple[Example, str]]]) -> tuple[int, int]:
    """Validation rows whose meaningless label TF-IDF and logistic regression know, and all of them.

    It learns training rows by heart, which a model may not have the time for.
    """
    from dataclasses import replace

    train, held = ([replace(e, label=label) for e, label in parts[split]] for split in ("train", "validation"))
    guess = baselines.fit(task, train).guesses.get("tfidf")
    if guess is None:
        return 0, 0
    found = guess(held)
    return sum(str(a) == str(e.label) for a, e in zip(found, held, strict=True)), len(held)


def learnt(right: int, rows: int, labels: Sequence[str]) -> dict[str, Any]:
    """Whether so many right answers are too many to be chance: a one-sided binomial test against the share of the most
    frequent label.
    """
    from scipy.stats import binomtest

    majority = Counter(labels).most_common(1)[0][1] / len(labels) if labels else 1.0
    p = float(binomtest(right, rows, majority, alternative="greater").pvalue) if rows else 1.0
    return {"right": right, "rows": rows, "majority": majority, "p": p, "learnt": p < SURE}


def leaks(findings: Sequence[Finding], policy: str) -> dict[str, Any]:
    """What the ledger says of rows that are in two splits."""
    counts = Counter(finding.kind for finding in findings if finding.kind in ("leak", "near_leak"))
    first = next((f"{f.file}:{f.line}: {f.message}" for f in findings if f.kind in counts), None)
    return {"rows": counts["leak"], "near": counts["near_leak"], "policy": policy, "first": first}
