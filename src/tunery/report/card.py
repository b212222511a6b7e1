"""A model card in the form of the Hugging Face hub: ``model/README.md``, with metadata in YAML on top."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunery.report import intervals, markdown, verdict, words
from tunery.report.page import Table
from tunery.report.records import LOSSES, Evaluation, Records
from tunery.rundir import RunDir, write_text

FILE = "README.md"
PIPELINES = {
    "classify": "text-classification",
    "cloze": "text-classification",
    "regress": "text-classification",
    "tag": "token-classification",
    "extract_qa": "question-answering",
    "instruct": "text-generation",
    "lm": "text-generation",
    "seq2seq": "text2text-generation",
}
"""The hub's word for each task."""


def write(run: RunDir, records: Records) -> Path:
    """The card, beside the weights. Raises ResourceError if it cannot be written."""
    path = run.model / FILE
    write_text(path, render(records))
    return path


def render(records: Records, use: str | None = None, parity: Mapping[str, Any] | None = None) -> str:
    """The card of a run; of an export of it with ``use``, Markdown on how to load that, and its ``parity.json``."""
    metadata = yaml.safe_dump(_metadata(records, parity), sort_keys=False, allow_unicode=True, width=float("inf"))
    parts = [
        f"---\n{metadata}---",
        f"# {markdown.escape(records.path.name)}",
        markdown.escape(verdict.sentence(records)),
        "Trained with `tunery`.",
        "## Use",
        _use(records) if use is None else use,
        *(["## Parity", _parity(parity)] if parity else []),
        "## Training",
        _training(records),
        "## Scores",
        *_scores(records),
        "## Limits",
        _limits(records),
        "## Environment",
        _environment(records),
    ]
    return words.plain("\n\n".join(part for part in parts if part)) + "\n"


def adapter(records: Records) -> bool:
    """Whether the weights are an adapter in peft's form."""
    return (records.path / "model" / "adapter_config.json").is_file()


# --------------------------------------------------------------------------------------------- metadata


LIBRARIES = {"adapter": "peft", "vllm": "peft", "merged": "transformers", "onnx": "onnx"} | dict.fromkeys(
    ("gguf", "gguf_lora", "ollama"), "gguf"
)
"""The hub's word for what loads each kind of export."""


def _metadata(records: Records, parity: Mapping[str, Any] | None) -> dict[str, Any]:
    base = records.manifest.get("base") or {}
    task, method = records.named("task"), records.named("method")
    library = LIBRARIES.get(str(parity["kind"]), str(parity["kind"])) if parity else _library(records)
    found: dict[str, Any] = {"library_name": library}
    if base.get("hub"):
        found["base_model"] = base["hub"]
        whole = method in ("full", "freeze", "bitfit") or (
            parity is not None and library != "peft" and parity["kind"] != "gguf_lora"
        )
        found["base_model_relation"] = "finetune" if whole else "adapter"
    if licence := _licence(base.get("licence")):
        found["license"] = licence
    if task in PIPELINES:
        found["pipeline_tag"] = PIPELINES[task]
    found["tags"] = ["tunery", task, method]
    judged = records.judged_by
    if judged and judged.metrics:
        found["metrics"] = list(judged.metrics)
        found["model-index"] = [_results(records, judged)]
    return found


def _library(records: Records) -> str:
    if adapter(records):
        return "peft"
    return "transformers" if (records.path / "model" / "config.json").is_file() else "tunery"


def _licence(text: Any) -> str | None:
    """The hub's name of a licence: its first word in small letters; of the weights where the package has another."""
    first = str(text or "").split(" ")[0].lower()
    return first if re.fullmatch(r"[a-z0-9.-]+", first) else None


def _results(records: Records, judged: Evaluation) -> dict[str, Any]:
    task = records.named("task")
    data = _data_names(records)
    return {
        "name": records.path.name,
        "results": [
            {
                "task": {"type": PIPELINES.get(task, task)},
                "dataset": {"name": ", ".join(data) or "own data", "type": "own", "split": judged.name},
                "metrics": [{"type": name, "value": value} for name, value in judged.metrics.items()],
            }
        ],
    }


def _data_names(records: Records) -> list[str]:
    """Names of the files without their folders, which are nobody else's matter."""
    return sorted({Path(file).name for file in records.manifest.get("data") or {}})


# ----------------------------------------------------------------------------------------------- text


def _use(records: Records) -> str:
    lines = ["import tunery", "", 'run = tunery.load("the run\'s folder")', 'print(run.predict(["a text"]))']
    text = "The run's folder, of which this is `model/`, is what tunery loads:\n\n" + markdown.fenced("\n".join(lines))
    if adapter(records):
        text += "\n\nThe weights are an adapter in peft's format."
    elif _library(records) == "transformers":
        text += "\n\nThe weights are a whole model, as `transformers` loads it."
    return text


def _parity(found: Mapping[str, Any]) -> str:
    """How near an export is to the run, as the program that loads it was asked."""
    consumer = found["consumer"]
    if consumer is None:
        return "It was not checked against the run: the program that loads it was not installed (`--unverified`)."
    programs = ", ".join(f"{name} {version}" for name, version in consumer["versions"].items())
    shown: dict[str, Any] = {
        "loaded by": programs,
        "rows, positions": f"{found['rows']:,}, {found['positions']:,}",
        "token ids equal": f"{found['token_ids_equal']:.0%}",
        "top-1 agreement": None if found["top1"] is None else f"{found['top1']:.2%}",
        "KL divergence, mean": f"{found['kl_mean']:.2g} (bound {found['bounds']['kl']:.2g})",
        "KL divergence, largest": f"{found['kl_max']:.2g}",
        "same greedy answers": None if found["same_answers"] is None else f"{found['same_answers']:.0%}",
        "weights": found["dtype"],
    }
    for name, value in found["metrics"]["run"].items():
        other = found["metrics"]["export"].get(name)
        shown[f"{name}: run, export"] = f"{words.number(value)}, {'–' if other is None else words.number(other)}"
    return "Compared with the run it was made from, on rows of the run's data:\n\n" + _facts(shown)


def _training(records: Records) -> str:
    manifest = records.manifest
    rows = manifest.get("rows") or {}
    settings = records.config.get("train")
    shown: dict[str, Any] = {
        "method": _named(records, "method"),
        "task": _named(records, "task"),
        "base": (manifest.get("base") or {}).get("name"),
        "data": ", ".join(_data_names(records)) or None,
        "rows": ", ".join(f"{count:,} {split}" for split, count in rows.items()) or None,
        "steps": manifest.get("steps"),
        "tokens with a loss": manifest.get("supervised_tokens"),
        "time": words.duration(manifest["seconds"]) if manifest.get("seconds") else None,
        "device": manifest.get("device"),
    }
    if isinstance(settings, Mapping):
        keys = ("lr", "batch_size", "accumulate", "schedule", "warmup", "weight_decay", "seed")
        shown |= {f"train.{key}": _written(settings[key]) for key in keys if key in settings}
    return _facts(shown)


def _named(records: Records, section: str) -> str:
    """A name with the keys of its own."""
    value = records.config.get(section)
    keys = {k: v for k, v in value.items() if k != "name" and v is not None} if isinstance(value, Mapping) else {}
    name = records.named(section)
    return f"{name} ({', '.join(f'{k} {_written(v)}' for k, v in keys.items())})" if keys else name


def _written(value: Any) -> str | None:
    """A setting as it was set."""
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _facts(values: Mapping[str, Any]) -> str:
    rows = [{"": name, "value": value} for name, value in values.items() if value is not None]
    return markdown.table(Table(["", "value"], rows))


def _scores(records: Records) -> list[str]:
    judged = records.judged_by
    if judged is None or not judged.metrics:
        return ["The run has no scores."]
    base, ends = records.base(judged), intervals.of(judged)
    rows = []
    for name, value in judged.metrics.items():
        low_high = f"{words.number(ends[name][0])} – {words.number(ends[name][1])}" if name in ends else None
        rows.append({"number": name, "this model": value, "95 % interval": low_high})
        rows[-1]["untouched base"] = base.metrics.get(name) if base else None
        rows[-1] |= {guess: numbers.get(name) for guess, numbers in judged.baselines.items()}
    columns = ["number", "this model", "95 % interval", "untouched base", *judged.baselines]
    lower = [name for name in judged.metrics if not intervals.higher_is_better(name)]
    text = f"On {judged.rows:,} {judged.name} rows."
    if judged.answered < judged.rows:
        text += f" {judged.answered:,} of them were answered; all count for the loss."
    if lower:
        text += f" Lower is better: {', '.join(lower)}."
    others = f" Without a model: {', '.join(judged.baselines)}." if judged.baselines else ""
    return [markdown.escape(text + others), markdown.table(Table(columns, rows))]


def _limits(records: Records) -> str:
    """What is known of them; a card does not promise more."""
    found = [str(line) for line in records.manifest.get("verdicts") or []]
    judged = records.judged_by
    if judged is not None and judged.name == "validation":
        found.append("The scores are of validation rows, by which the kept weights were chosen: they flatter a little.")
    forgetting = records.manifest.get("forgetting")
    if isinstance(forgetting, Mapping) and isinstance(forgetting.get("relative"), int | float):
        found.append(f"Loss on general text changed by {forgetting['relative']:+.1%} (forgetting).")
    number = intervals.headline([name for name in judged.metrics if name not in LOSSES]) if judged else None
    if judged and number:
        found.append(f"Rows unlike those of the {judged.name} set may score otherwise; nothing else was measured.")
    return "\n".join(f"- {markdown.escape(line)}" for line in found) or "None were measured."


def _environment(records: Records) -> str:
    manifest = records.manifest
    shown = dict(manifest.get("versions") or {})
    shown |= {"Python": manifest.get("python"), "dtype": manifest.get("dtype"), "seed": str(manifest.get("seed"))}
    return _facts(shown)
