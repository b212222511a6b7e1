"""Look at a data file and write a configuration for it, with the reasons as comments.

What is written is checked before: ``tunery check`` and ``tunery train`` take it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunery import config as configuration
from tunery import registry
from tunery.config import Config, yaml12
from tunery.errors import ConfigError, ModelError
from tunery.models import packs
from tunery.models.packs import PACKS
from tunery.protocols import Task
from tunery.run.dataset import SPLITS, Dataset, load_dataset
from tunery.run.sniff import Sniffed, assign, sniff
from tunery.rundir import write_text

ENCODER, DECODER = "minilm", "smollm2"
CHINESE_BASES = {"logits": "google-bert/bert-base-chinese", "text": "Qwen/Qwen2.5-0.5B-Instruct"}
LONGEST = {"logits": 512, "text": 2048}
"""Most tokens that are proposed, by the task's output; the packs can read as many."""
MANY = 0.2  # share of Chinese rows from which it matters that the base is English
WIDTH = 110  # characters from which a comment goes on a line of its own
Plain = dict[str, dict[str, Any]]
Comments = dict[tuple[str, str], str]
"""By section and key."""


def init(
    files: Sequence[str],
    model: str | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write ``./tunery.yaml``; returns what ``tunery init --json`` prints.

    Args:
        files: data files; one called ``train.*`` brings those beside it called ``validation.*`` and ``test.*``.
        model: default by the kind of data.
        method: default lora.
        overrides: ``section.key=value`` to put into the file.
        force: replace a file that is there.

    Raises ConfigError: there is a tunery.yaml already, the model cannot do the task. DataError: as ``train``.
    """
    target = Path(configuration.DEFAULT_FILE)
    if target.exists() and not force:
        raise ConfigError("there is one already", "--force replaces it, or work in another folder", str(target))
    splits, notes = assign(files)
    given = {"data": {name: names[0] if len(names) == 1 else names for name, names in splits.items()}}
    named = [f"{kind}={name}" for kind, name in (("model", model), ("method", method)) if name is not None]
    given = configuration.override(given, [*overrides, *named])
    # keys of a task that is not named belong to the one that will be found
    sniffed = sniff(configuration.build({k: v for k, v in given.items() if k != "task" or "name" in v}))
    values, comments = propose(sniffed, given)
    final = _verified(configuration.build(values))
    write_text(target, compose(values, comments, f"Written by tunery init for {' '.join(files)}."))
    notes += [*sniffed.dataset.notes, *(note for note in final.notes if note.startswith("validation:"))]
    return {
        "config": str(target),
        "format": sniffed.dataset.format,
        "task": values["task"]["name"],
        "rows": sniffed.train,
        "splits": sniffed.rows,
        "columns": sniffed.columns,
        "labels": sniffed.labels,
        "languages": sniffed.languages,
        "notes": [*notes, *filter(None, (chinese(values["model"]["name"], sniffed), unusable(sniffed)))],
        "values": values,
    }


def propose(sniffed: Sniffed, given: Plain) -> tuple[Plain, Comments]:
    """→ the configuration as plain values, and a comment for most keys. What is given wins.

    Raises ConfigError: the model cannot do the task.
    """
    form, output = sniffed.dataset.format, sniffed.task.output
    encoder = output == "logits" and not sniffed.task.language_head
    base = str(given.get("model", {}).get("name") or (ENCODER if encoder else DECODER))
    _check_base(base, sniffed.task)
    length, why = _max_length(sniffed, base)
    files: dict[str, Any] = {name: given["data"][name] for name in SPLITS if name in given["data"]}
    values: Plain = {
        "model": {"name": base},
        "data": {
            **files,
            "format": form,
            "columns": sniffed.dataset.columns,
            "max_length": length,
            "on_bad_row": "drop" if sniffed.bad else "error",
        },
        "task": {"name": sniffed.task.name},
        "method": {"name": given.get("method", {}).get("name", configuration.DEFAULT_METHOD)},
        "train": {
            "epochs": 10 if sniffed.train < 300 else 5 if sniffed.train < 2000 else 3,
            "batch_size": 32 if output == "logits" and sniffed.train >= 2000 else 8,
            "lr": None,
            "seed": 42,
        },
        "eval": {"every": "epoch"},
    }
    comments = _comments(sniffed, values) | {("data", "max_length"): why}
    if sniffed.task.on_long == "truncate" and sniffed.tokens[0] > (length or sniffed.task.default_max_length) / 2:
        values["data"]["on_long"] = "truncate"  # or train would refuse: all rows too long is rarely meant
        comments["data", "on_long"] = "all rows may be longer than max_length: their ends are not read"
    for section, keys in given.items():
        for key, value in keys.items():
            if values.setdefault(section, {}).get(key) != value:
                comments.pop((section, key), None)
            values[section][key] = value
    return values, comments


def _comments(sniffed: Sniffed, values: Plain) -> Comments:
    """Why the values are what they are."""
    labels = ", ".join(f"{label} {count}" for label, count in list(sniffed.labels.items())[:8])
    more = f", … {len(sniffed.labels)} labels in all" if len(sniffed.labels) > 8 else ""
    base, method = values["model"]["name"], values["method"]["name"]
    comments: Comments = {
        ("model", "name"): chinese(base, sniffed) or PACKS[base].summary if base in PACKS else "",
        ("data", "format"): f"sniffed: columns {', '.join(sniffed.columns.values())}",
        ("data", "columns"): "{name tunery knows: name in the file}",
        ("data", "on_bad_row"): unusable(sniffed) or "stop at a row that cannot be used; drop: leave such rows out",
        ("task", "name"): f"{sniffed.task.summary}{': ' * bool(labels)}{labels}{more}",
        ("method", "name"): f"its own keys: tunery methods {method}; the other methods: tunery methods",
        ("train", "epochs"): f"for {sniffed.train} rows; training stops earlier when validation no longer improves",
        ("train", "lr"): "null: by method and model size; worth trying: 3 times more, 3 times less",
        ("train", "batch_size"): "rows per step",
        ("train", "seed"): "the same seed gives the same weights",
        ("eval", "every"): "score the validation rows after every epoch; or a number of steps",
    }
    for split, rows in sniffed.rows.items():
        comments["data", split] = f"{rows} rows"
    if "validation" not in sniffed.rows:
        comments["data", "train"] += ", a tenth of which is held out for validation"
    return comments


def chinese(base: str, sniffed: Sniffed) -> str:
    """A warning where the text is Chinese and the base is not."""
    share = sniffed.languages.get("chinese", 0.0)
    if base not in PACKS or share < MANY:
        return ""
    better = CHINESE_BASES[sniffed.task.output]
    return (
        f"{share:.0%} of the rows are Chinese and the base {base} is English; with a model hub, {better} will do better"
    )


def unusable(sniffed: Sniffed) -> str:
    """What is said about rows that cannot be used, if there are any."""
    if not sniffed.bad:
        return ""
    if len(sniffed.bad) == 1:
        return f"1 row cannot be used and is dropped: {sniffed.bad[0]}"
    return f"{len(sniffed.bad)} rows cannot be used and are dropped; the first: {sniffed.bad[0]}"


def _check_base(base: str, task: type[Task]) -> None:
    """Raises ModelError for a name that is nothing, ConfigError for a pack that cannot do the task."""
    if base not in PACKS:
        path = Path(base).expanduser()
        if path.exists() or base.startswith("modelscope:") or (base.count("/") == 1 and base[0] not in "./~"):
            return
        if "/" in base:
            raise ModelError("no such model folder or file", "check the path", base)
        packs.get(base)
    if not PACKS[base].pooling and "decoder" not in task.families:
        problem = f"{base} is a decoder; task {task.name} needs {' or '.join(task.families)}"
        raise ConfigError(problem, "--model FOLDER, of a T5 or BART for example", "model")
    if PACKS[base].pooling and task.output == "text":
        problem = f"{base} is an encoder, which writes no text; the data asks for task {task.name}"
        raise ConfigError(problem, f"--model {DECODER}, for example; {base} is for labels and numbers", "model")
    if PACKS[base].pooling and task.language_head:
        problem = f"{base} has no masked-language head, which task {task.name} needs"
        raise ConfigError(problem, f"--model {DECODER}, for example", "model")


def _max_length(sniffed: Sniffed, base: str) -> tuple[int | None, str]:
    """Tokens per row for a pack; of other models the limit is not known before they are opened."""
    if base not in PACKS:
        return None, "tokens per row; null: by task and model. tunery check shows how long the rows are"
    p95 = sniffed.tokens[round(0.95 * (len(sniffed.tokens) - 1))]
    length = sniffed.task.default_max_length
    if sniffed.task.on_long == "window":
        return length, "tokens per row; longer texts are cut into windows"
    while length < p95 and length < LONGEST[sniffed.task.output]:
        length *= 2
    return length, f"tokens per row, longer ones are cut; 95 % of the rows have roughly {p95} at most"


def compose(values: Plain, comments: Comments, title: str) -> str:
    """YAML with comments."""
    lines = [
        f"# {_one_line(title)}",
        "# tunery check looks the data over, tunery train trains. Any key can be changed there as well:",
        "# tunery train train.lr=1e-4",
    ]
    for section, keys in values.items():
        lines += ["", f"{section}:"]
        for key, value in keys.items():
            line, comment = f"  {key}: {yaml12.scalar(value)}", _one_line(comments.get((section, key), ""))
            if comment and len(line) + len(comment) > WIDTH:
                lines += [f"  # {comment}", line]
            else:
                lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _verified(config: Config) -> Dataset:
    """What check and train do before they open the model. Raises DataError where they would."""
    dataset = load_dataset(config.data, config.task_name, config.train.seed)
    task: Task = registry.get("task", str(config.task_name))(config.task)
    task.fit(dataset.splits["train"], config.data.label_names)
    return dataset
