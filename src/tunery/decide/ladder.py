"""From the cheapest to the dearest: hand prompt, searched prompt, cloze on few rows, soft prompt, LoRA.

The first two rungs are measured by the search. The others are configurations beside it, to be trained by hand, or one
after the other until one reaches the target; all but the first start from the prompt that was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery import config as configuration
from tunery.config import Config
from tunery.decide import trial
from tunery.decide.prompt_scores import Material
from tunery.errors import Interrupted
from tunery.protocols import Example
from tunery.run.records import say
from tunery.rundir import write_jsonl, write_text

Rung = dict[str, Any]
FEW, ROWS = "few.jsonl", "development.jsonl"
BEST = "best.yaml"
FEW_EPOCHS = 10
"""Passes over the few rows."""


def climb(
    folder: Path, material: Material, record: Mapping[str, Any], target: float | None, train: bool
) -> dict[str, Any]:
    """→ ``ladder``, ``verdict``, ``next``. With ``train``, rungs are trained until one reaches the target."""
    rungs = [
        {"rung": "hand prompt", "reached": None, **_measured(record, "hand")},
        {"rung": "searched prompt", "reached": None, **_measured(record, "best")},
    ]

    def judge(rung: Rung) -> None:
        if target is not None and rung["value"] is not None:
            sign = 1 if material.higher_is_better else -1
            rung["reached"] = sign * rung["value"] >= sign * target

    for rung in rungs:
        judge(rung)
    for name, config in _configurations(folder, material).items():
        path = folder / f"{name.replace(' ', '-')}.yaml"
        write_text(path, configuration.dump(config))
        rung = {"rung": name, "value": None, "reached": None, "command": f"tunery train {path}"}
        if train and not any(rung["reached"] for rung in rungs):
            rung |= _trained(folder, name, config, material.metric)
            judge(rung)
        rungs.append(rung)
    return {"ladder": rungs, "target": target, **_said(folder, material.metric, rungs, target)}


def _measured(record: Mapping[str, Any], which: str) -> Rung:
    """On the test rows where there are some: the development rows chose the prompt, so they flatter it."""
    test = record.get("test")
    found = test[which] if test else record[which]
    rows = test["rows"] if test else record["rows"]
    on = "test" if test else "development"
    return {"value": found["value"], "interval": found["interval"], "rows": rows, "on": on}


def _trained(folder: Path, name: str, config: Config, metric: str) -> Rung:
    """Train it, or go on where it was interrupted. A failure is told in the ladder."""
    run = Path(config.run.dir) / str(config.run.name)
    log = folder / f"{run.name}.log"
    say(f"training: {name}")
    status = trial.standing(run)
    if status == "completed":
        outcome = trial.Outcome("completed", run)
    else:
        outcome = trial.go_on(run, log=log) if status else trial.start(config, log=log)
    if outcome.status == "interrupted":
        raise Interrupted("the training was interrupted", f"tunery resume {folder}", str(run))
    if outcome.status != "completed":
        return {"problem": outcome.problem or outcome.status}
    manifest = outcome.manifest
    test = manifest.get("test_metrics")
    numbers, on = (test, "test") if test else (manifest["metrics"], "development")
    found: Rung = {"value": numbers.get(metric), "on": on, "run": str(outcome.run), "seconds": manifest.get("seconds")}
    return found | {"rows": manifest["rows"].get("test" if test else "validation")}


# -------------------------------------------------------------------------------------------- configurations


def _configurations(folder: Path, material: Material) -> dict[str, Config]:
    """The trained rungs by name."""
    best = configuration.load(folder / BEST)
    found = {}
    if material.task.name == "cloze":
        names = material.config.data.columns
        write_jsonl(folder / ROWS, (_row(row, names, material.config) for row in material.rows))
        write_jsonl(folder / FEW, (_row(row, names, material.config) for row in material.pool))
        few = {"train": str((folder / FEW).absolute()), "augment": []}
        epochs = {"epochs": FEW_EPOCHS, "max_steps": None}
        if material.pool:
            found["cloze few rows"] = _changed(folder, best, "cloze-few-rows", "lora", few, epochs)
    found["soft prompt"] = _changed(folder, best, "soft-prompt", "prompt", {}, {})
    found["lora"] = _changed(folder, best, "lora", "lora", {}, {})
    return found


def _changed(
    folder: Path, best: Config, name: str, method: str, data: Mapping[str, Any], train: Mapping[str, Any]
) -> Config:
    """Trained with the found prompt and judged by the rows that judged the prompts, which leave the training rows."""
    values = best.dump()
    values["method"] = values["method"] if values["method"]["name"] == method else {"name": method}
    values["train"] |= {"lr": None, **train}
    values["run"] = {"dir": str(folder.absolute()), "name": name}
    values["data"] |= data
    if (folder / ROWS).is_file():
        values["data"] |= {"validation": str((folder / ROWS).absolute()), "on_leak": "drop"}
        values["data"] |= {"group": None, "time": None, "encoding": None}
    return configuration.build(values)


def _row(row: Example, names: Mapping[str, str], config: Config) -> dict[str, Any]:
    """As it stands in the training files: their names of columns and of labels."""
    label, renamed = str(row.label), config.data.labels
    if isinstance(renamed, Mapping):
        label = next((old for old, new in renamed.items() if new == label), label)
    found = {"text": row.text, "text_pair": row.text_pair, "label": label}
    return {names.get(key, key): value for key, value in found.items() if value is not None}


# -------------------------------------------------------------------------------------------------- words


def _said(folder: Path, metric: str, rungs: Sequence[Rung], target: float | None) -> dict[str, Any]:
    """The verdict in a sentence, and what to type next."""
    hand, best = rungs[:2]
    reached = next((rung for rung in rungs if rung["reached"]), None)
    untrained = next((rung["command"] for rung in rungs[2:] if rung["value"] is None and "problem" not in rung), None)
    use = f"tunery train {folder / BEST} train.max_steps=0"
    following = untrained or use
    if reached in (hand, best):
        said = f"a prompt alone reaches {metric} {target}, no training is needed: {_figure(reached)}"
        following = use
    elif reached:
        said = f"no prompt alone reaches {metric} {target}; {reached['rung']} does: {_figure(reached)}"
        following = f"tunery eval {reached['run']}"
    elif target is not None:
        said = f"no prompt alone reaches {metric} {target}: the best has {_figure(best)}"
    else:
        change = f"{best['value'] - hand['value']:+.4f} against the best one written by hand"
        said = f"the prompt that was found: {metric} {_figure(best)}, {change}"
    return {"verdict": said, "next": following}


def _figure(rung: Rung) -> str:
    ends = rung.get("interval")
    interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
    return f"{rung['value']:.4f}{interval} on {rung['rows']} {rung['on']} rows"
