"""The configuration: about ten keys start a project, every key has a default and its help beside it.

Strict: an unknown key is an error that names the nearest known one, and all problems are reported at once.
``task`` and ``method`` also take the keys of the chosen task and method; those are checked here too,
without loading torch. Naming another method or task in an override drops the keys of the old one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator

from tunery import config_errors, config_steps, config_yaml, registry
from tunery.config_errors import PLUGINS, Problem
from tunery.errors import ConfigError
from tunery.protocols import Strict

SCHEMA_VERSION = 1
DEFAULT_FILE = "tunery.yaml"
DEFAULT_METHOD = "lora"
Files = str | list[str] | dict[str, str] | None


class Section(Strict):
    """A section whose texts may look like numbers (a label 0, a run called 2024)."""

    model_config = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)


class ModelConfig(Section):
    name: str = Field("smollm2", description="pack, local folder, GGUF file, hub id or modelscope:ID")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast, else float32"
    )
    quantise: Literal["nf4", "fp4", "int8"] | None = Field(None, description="quantise the frozen base")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


class DataConfig(Section):
    train: Files = Field(
        None,
        description="training data: file, folder, pattern, -, id on a hub, a list of these, or {column: text file}",
    )
    validation: Files = Field(None, description="validation files; without, a tenth of train is held out")
    test: Files = Field(None, description="test files; read once, after training")
    encoding: str | None = Field(None, description="of text files, gb18030 for example; found out if not named")
    format: str | None = Field(None, description="how columns become examples; sniffed if not named")
    columns: dict[str, str] = Field({}, description="column mapping, {name tunery knows: name in the file}")
    labels: list[str] | dict[str, str] | None = Field(
        None,
        description="names in order, or {label in the file: name} to rename; default: those of train, sorted",
    )
    label_separator: str | None = Field(
        None, min_length=1, description="cuts a label cell into several labels (a|b); default: it is one label"
    )
    holdout: float = Field(0.1, gt=0, lt=1, description="share of train held out where no validation is given")
    group: str | None = Field(None, description="column whose rows stay together when rows are held out")
    time: str | None = Field(None, description="column with a date or number: the latest rows are held out")
    folds: int | None = Field(None, ge=2, description="cross-validation: so many runs, each tested on another part")
    fold: int | None = Field(None, ge=1, description="one run of a cross-validation alone, from 1")
    take: int | None = Field(
        None, ge=1, description="train on so many of the training rows, drawn by label; fewer are always among more"
    )
    max_length: int | None = Field(None, ge=2, description="tokens per example; default by task and model")
    clean: list[SerializeAsAny[Strict]] = Field([], description="cleaning steps in order: names, or {name: NAME, …}")
    augment: list[SerializeAsAny[Strict]] = Field(
        [], description="steps that make changed copies of training rows: names, or {name: NAME, copies: 1, …}"
    )
    on_bad_row: Literal["error", "drop"] = Field("error", description="a row that cannot be used")
    on_duplicate: Literal["warn", "drop", "error"] = Field("warn", description="a training row that is there twice")
    on_conflict: Literal["warn", "drop", "error"] = Field(
        "warn", description="a training row with another label than the same input elsewhere"
    )
    on_leak: Literal["drop", "warn", "error"] = Field(
        "drop", description="a row, or nearly the same one, in a later split too: dropped from the earlier one"
    )
    near_duplicates: Literal["auto"] | bool = Field(
        "auto", description="look for rows that are nearly the same; auto: up to 50,000 rows"
    )
    on_long: Literal["auto", "error", "truncate", "drop", "window"] = Field(
        "auto",
        description="a row over max_length; auto: lm cuts windows, other tasks truncate; an error if all are too long",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        """``true`` is the label "true", as it is in a data file."""

        def text(label: Any) -> Any:
            return str(label).lower() if isinstance(label, bool) else label

        if isinstance(value, Mapping):
            return {str(text(key)): text(name) for key, name in value.items()}
        return [text(label) for label in value] if isinstance(value, list) else value

    @property
    def label_names(self) -> list[str] | None:
        """The labels in their order, under the names they have after renaming."""
        return list(dict.fromkeys(self.labels.values())) if isinstance(self.labels, dict) else self.labels

    @field_validator("clean", "augment", mode="before")
    @classmethod
    def _steps(cls, value: Any, info: ValidationInfo) -> list[Strict]:
        """Raises ConfigError that names all problems of the steps."""
        return config_steps.parse("cleaner" if info.field_name == "clean" else "augmenter", value)


class TrainConfig(Section):
    epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=0, description="optimizer steps; wins over epochs; 0: as the base is")
    lr: float | None = Field(None, gt=0, description="learning rate; default by method and model size")
    batch_size: int = Field(8, ge=1, description="rows per forward pass and process")
    accumulate: int = Field(1, ge=1, description="forward passes per optimizer step")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="learning rate after warm-up")
    warmup: float = Field(0.06, ge=0, description="share of all steps (below 1) or number of steps")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, not on biases and norms")
    clip: float = Field(1.0, ge=0, description="gradient norm limit; 0: none")
    dropout: float | None = Field(None, ge=0, lt=1, description="the model's own dropout; default: as it was made")
    patience: int | None = Field(
        3, ge=1, description="evaluations without improvement before stopping; null: never stop early"
    )
    min_delta: float = Field(0.0, ge=0, description="smallest change that counts as an improvement")
    keep: Literal["best", "last"] = Field("best", description="which weights the run keeps")
    checkpoint_every: int | None = Field(None, ge=1, description="steps; default: at every evaluation")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third slower")
    micro_tokens: int = Field(2048, ge=1, description="most padded tokens per forward pass; larger batches are split")
    group_by_length: bool = Field(True, description="batches of rows of similar length (random order otherwise)")
    join_rows: bool = Field(
        True, description="rows end to end in random order, without padding, where the model and the method allow it"
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="balanced: classes with few training rows weigh more in the loss, n / (classes x rows of it)"
    )
    max_forgetting: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share (0.02 or 2%) by which the loss on general text may rise: what was learnt is scaled to fit",
    )
    continue_from: str | None = Field(
        None, description="a finished run (or its alias) to go on from, with its base, method, task and labels"
    )
    replay: float = Field(
        0.6, ge=0, le=1, description="share of the old training rows that a continued run trains on again"
    )
    seed: int = Field(42, ge=0, description="order of rows, new weights, dropout")
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field([], description="experiment trackers")

    @field_validator("max_forgetting", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        """``2%`` is 0.02; 2 alone is refused, for it would be 200 %."""
        if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", value)):
            return float(found[1]) / 100
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 1:
            raise ConfigError(
                f"{value:g} would be {value:.0%}", f"write {value:g}% or {value / 100:g}", "train.max_forgetting"
            )
        return value


class EvalConfig(Section):
    every: Annotated[int, Field(ge=1)] | Literal["epoch"] = Field(
        "epoch", description="steps between evaluations, or epoch"
    )
    metrics: list[str] | None = Field(None, description="numbers to report; default by task")
    batch_size: int = Field(32, ge=1, description="rows per forward pass")
    max_new_tokens: int = Field(128, ge=1, description="longest generated answer")
    generate_rows: int = Field(
        50, ge=0, description="validation rows answered at the end of train; eval answers all rows"
    )
    general_text: str | None = Field(
        "built-in",
        description="text that shows what a model that writes forgets: a file, built-in, or null for no measurement",
    )
    baselines: bool = Field(True, description="score what needs no model (majority, TF-IDF, …) on the same rows")
    base: bool = Field(True, description="score the untouched model on the same rows, before training")
    test: bool = Field(True, description="score the test rows at the end of training; false leaves them to tunery eval")


class RunConfig(Section):
    dir: str = Field("runs", description="folder of the runs")
    name: str | None = Field(None, description="name of this run; default: date, model, task, method, hash")
    report: bool = Field(True, description="write report.html, report.md and a model card at the end")


class Config(Strict):
    """The whole configuration of a run."""

    schema_version: int = Field(SCHEMA_VERSION, description="version of this file's layout")
    model: ModelConfig
    data: DataConfig
    task: SerializeAsAny[Strict] | None = None
    method: SerializeAsAny[Strict]
    train: TrainConfig
    eval: EvalConfig
    run: RunConfig

    @property
    def task_name(self) -> str | None:
        return getattr(self.task, "name", None)

    @property
    def method_name(self) -> str:
        return str(getattr(self.method, "name", ""))

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


SECTIONS: dict[str, type[Strict]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "run": RunConfig,
}
SEARCH = "search"
"""The part of a configuration file that only ``tunery search`` reads."""
NAMED = ("model", *PLUGINS)
"""Sections for which a bare value means the name."""


def load(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file, put ``values`` and then ``a.b=c`` overrides on top, check everything.

    Raises ConfigError: no such file, not YAML, unknown or wrong keys (all of them in one message).
    """
    merged = _read(Path(path)) if path is not None else {}
    _put_all(merged, (values or {}).items())
    return build(override(merged, overrides))


def override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Put ``a.b=c`` on top of plain values, unchecked. Raises ConfigError for what is no override."""
    _put_all(values, [_parsed(item) for item in overrides])
    return values


def put(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """As ``override``, with ``{"train.lr": 2e-4}``."""
    _put_all(values, settings.items())
    return values


def read(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a YAML file with overrides on top, ``search`` among them, unchecked. Raises ConfigError."""
    return override(_read(Path(path)) if path is not None else {}, overrides)


def build(values: Mapping[str, Any]) -> Config:
    """Check plain values. Raises ConfigError that names all problems.

    What stands under ``search`` are ranges for ``tunery search``, which checks them; no run has any.
    """
    problems: list[Problem] = []
    given = {name: _mapping(name, values.get(name), problems) for name in (*SECTIONS, *PLUGINS)}
    models = dict(SECTIONS)
    for kind in PLUGINS:
        if chosen := _plugin(kind, given[kind], problems):
            models[kind] = chosen
    known = (*Config.model_fields, SEARCH)
    problems += [config_errors.unknown("", str(key), {}, models) for key in values if key not in known]
    version = values.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        text = f"a file of version {version}, this tunery reads {SCHEMA_VERSION}"
        problems.append(Problem("schema_version", text, "use the tunery that wrote it"))
    sections: dict[str, Strict] = {}
    for name, model in models.items():
        problems += config_errors.booleans(name, given[name], model)
        if name == "data":
            given[name] |= _steps(given[name], problems)
        try:
            sections[name] = model.model_validate(given[name])
        except ValidationError as error:
            problems += config_errors.explain(error, name, given[name], models)
        except ConfigError as error:  # of a validator that has words of its own
            problems.append(Problem(error.where, error.problem, error.hint))
    if problems:
        raise config_errors.together(problems)
    return Config.model_validate(sections)


def parse_scalar(text: str) -> Any:
    """A value from the command line: YAML where it is meant as such, else the text itself."""
    return config_yaml.value(text)


def dump(config: Config) -> str:
    return config_yaml.dump(config.dump())


def _read(path: Path) -> dict[str, Any]:
    try:
        values = config_yaml.load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("no such configuration file", "tunery init FILE writes one", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text", "save it as UTF-8", str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", "check the path and its rights", str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = str(path) if mark is None else f"{path}:{mark.line + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"cannot be read as YAML: {problem}", "check indentation and quotes", place) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("a configuration is a mapping of sections", "see tunery init", str(path))
    return dict(values)


def _mapping(name: str, section: Any, problems: list[Problem]) -> dict[str, Any]:
    """What was given for a section; one whose keys are all commented out is empty."""
    if isinstance(section, Mapping):
        return {str(key): value for key, value in section.items()}
    if name in NAMED and isinstance(section, str):
        return {"name": section}
    if section is not None:
        text = f"a section with keys of its own is needed, not {config_errors.shown(section)}"
        keys = ", ".join(SECTIONS.get(name, Config).model_fields)
        hint = f"write {name}: {{name: NAME}}" if name in NAMED else f"known: {keys}"
        problems.append(Problem(name, text, hint))
    return {}


def _steps(data: Mapping[str, Any], problems: list[Problem]) -> dict[str, list[Strict]]:
    """Of both lists, so that their problems come together."""
    kinds: dict[str, config_steps.Kind] = {"clean": "cleaner", "augment": "augmenter"}
    return {key: config_steps.collect(kind, data[key], problems) for key, kind in kinds.items() if key in data}


def _plugin(kind: Literal["task", "method"], section: dict[str, Any], problems: list[Problem]) -> type[Strict] | None:
    """The configuration class of the chosen task or method; None: no task is named, or there is no such thing."""
    if kind == "method":
        section.setdefault("name", DEFAULT_METHOD)
    name, where = section.get("name"), f"{kind}.name"
    names = registry.names(kind)
    if isinstance(name, str) and name in names:
        return registry.config_class(kind, name)
    if name is not None:
        hint = registry.near(str(name), names)
        problems.append(Problem(where, f"unknown {kind} {config_errors.shown(name)}", hint))
    elif section.keys() - {"name"}:
        having = [n for n in names if section.keys() <= registry.config_class(kind, n).model_fields.keys()]
        hint = f"{kind}={having[0]} has such keys" if having else f"known: {', '.join(names)}"
        first = next(key for key in section if key != "name")
        problems.append(Problem(where, f"is missing, but {kind}.{first} is given", hint))
    elif kind == "method":
        problems.append(Problem(where, "is missing", f"known: {', '.join(names)}"))
    return None


def _parsed(override: str) -> tuple[str, Any]:
    key, sep, text = override.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"{override!r} is not an override", "write section.key=value, for example train.lr=2e-4")
    return key.strip(), parse_scalar(text)


def _put_all(values: dict[str, Any], items: Iterable[tuple[str, Any]]) -> None:
    """Names first: ``method.r=4 method=lora`` means the same as ``method=lora method.r=4``."""
    flat: list[tuple[str, Any]] = []
    for key, value in items:
        if isinstance(value, Mapping) and key in (*SECTIONS, *PLUGINS):
            flat += [(f"{key}.{inner}", item) for inner, item in value.items()]
        else:
            flat.append((key, value))
    for key, value in sorted(flat, key=lambda item: item[0] not in (*NAMED, *(f"{name}.name" for name in NAMED))):
        _put(values, key, value)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b`` in nested mappings; a bare ``model=``, ``task=``, ``method=`` means its name."""
    head, _, rest = key.partition(".")
    if not rest and head in NAMED:
        rest = "name"
    if not rest:
        values[head] = value
        return
    section = values.get(head)
    if isinstance(section, str) and head in NAMED:
        section = {"name": section}
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{head} is not a section", f"known: {', '.join(Config.model_fields)}", key)
    section = values[head] = dict(section or {})
    if rest == "name" and head in PLUGINS:
        old = section.get("name", DEFAULT_METHOD if head == "method" and section else None)
        if old not in (None, value):
            section.clear()  # another method: the old one's own keys mean nothing to it
    inner, _, last = rest.partition(".")
    if not last:
        section[rest] = value
        return
    nested = section.get(inner)
    if nested is not None and not isinstance(nested, dict):
        raise ConfigError(f"{head}.{inner} is not a mapping", "", key)
    section[inner] = {**(nested or {}), last: value}
