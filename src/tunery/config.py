"""The configuration: about ten keys start a project, every key has a default and its help beside it.

Strict: an unknown key is an error that names the nearest known one, and all problems are reported at once.
``task`` and ``method`` also take the keys of the chosen task and method; those are checked here too,
without loading torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from tunery import registry
from tunery.errors import ConfigError
from tunery.protocols import Strict

SCHEMA_VERSION = 1
DEFAULT_FILE = "tunery.yaml"
Files = str | list[str] | None


class ModelConfig(Strict):
    name: str = Field("smollm2", description="pack, local folder, GGUF file, hub id or modelscope:ID")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor computes it fast, else float32"
    )
    quantise: Literal["nf4", "fp4", "int8"] | None = Field(None, description="quantise the frozen base")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


class DataConfig(Strict):
    train: Files = Field(None, description="training file or files")
    validation: Files = Field(None, description="validation files; without, a tenth of train is held out")
    test: Files = Field(None, description="test files; read once, after training")
    format: str | None = Field(None, description="how columns become examples; sniffed if not named")
    columns: dict[str, str] = Field({}, description="column mapping, {name tunery knows: name in the file}")
    labels: list[str] | None = Field(None, description="label names in order; default: those of train, sorted")
    holdout: float = Field(0.1, gt=0, lt=1, description="share of train held out where no validation is given")
    max_length: int | None = Field(None, ge=2, description="tokens per example; default by task and model")
    on_bad_row: Literal["error", "drop"] = Field("error", description="a row that cannot be used")
    on_long: Literal["auto", "error", "truncate", "drop", "window"] = Field(
        "auto",
        description="a row over max_length; auto: lm cuts windows, the rest truncate, an error if all rows are too long",
    )


class TrainConfig(Strict):
    epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; wins over epochs")
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
    micro_tokens: int = Field(8192, ge=1, description="most padded tokens per forward pass; larger batches are split")
    group_by_length: bool = Field(True, description="batches of rows of similar length (random order otherwise)")
    seed: int = Field(42, ge=0, description="order of rows, new weights, dropout")
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field([], description="experiment trackers")


class EvalConfig(Strict):
    every: int | Literal["epoch"] = Field("epoch", description="steps between evaluations, or epoch")
    metrics: list[str] | None = Field(None, description="numbers to report; default by task")
    batch_size: int = Field(32, ge=1, description="rows per forward pass")
    max_new_tokens: int = Field(128, ge=1, description="longest generated answer")
    generate_rows: int = Field(
        50, ge=0, description="validation rows answered at the end of train; eval answers all rows"
    )


class RunConfig(Strict):
    dir: str = Field("runs", description="folder of the runs")
    name: str | None = Field(None, description="name of this run; default: date, model, task, method, hash")


class Config(Strict):
    """The whole configuration of a run."""

    schema_version: int = Field(SCHEMA_VERSION, description="version of this file's layout")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    task: SerializeAsAny[Strict] | None = None
    method: SerializeAsAny[Strict]
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _plugins(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Build the sections that belong to the chosen task and method."""
        values = dict(values)
        values.setdefault("method", {"name": "lora"})
        for kind in ("task", "method"):
            section = values.get(kind)
            if isinstance(section, dict) and section.get("name"):
                known = registry.config_class(kind, section["name"])  # type: ignore[arg-type]
                values[kind] = known.model_validate(section)
            elif isinstance(section, dict):
                raise ConfigError(f"{kind}.name is missing", f"known: {', '.join(registry.names(kind))}", kind)  # type: ignore[arg-type]
        return values

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


def load(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file, put ``values`` and then ``a.b=c`` overrides on top, check everything.

    Raises ConfigError: no such file, not YAML, unknown or wrong keys (all of them in one message).
    """
    merged = _read(Path(path)) if path is not None else {}
    for key, value in (values or {}).items():
        _put(merged, key, value)
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise ConfigError(f"{item!r} is not an override", "write section.key=value, for example train.lr=2e-4")
        _put(merged, key, parse_scalar(text, key))
    return build(merged)


def build(values: dict[str, Any]) -> Config:
    """Check plain values. Raises ConfigError."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise _as_config_error(error, values) from None


def parse_scalar(text: str, where: str = "") -> Any:
    """A YAML value from the command line; ``1e-4`` is a number although YAML 1.1 disagrees."""
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ConfigError(f"{text!r} is not a YAML value", "quote it", where) from None
    if isinstance(value, str):
        try:
            return float(value) if any(c.isdigit() for c in value) else value
        except ValueError:
            return value
    return value


def dump(config: Config) -> str:
    return yaml.safe_dump(config.dump(), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such configuration file", "tunery init FILE writes one", str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        place = str(path) if line is None else f"{path}:{line + 1}"
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"cannot be read as YAML: {problem}", "check indentation and quotes", place) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError("a configuration is a mapping of sections", "see tunery init", str(path))
    return _numbers({k: v for k, v in values.items()})


def _numbers(value: Any) -> Any:
    """``1e-4`` in a YAML file is text to YAML 1.1; read it as the number it is meant to be."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, str) and "e" in value.lower() and value[:1].isdigit():
        return parse_scalar(value)
    return value


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b`` in nested mappings; a bare ``model=``, ``task=``, ``method=`` means its name."""
    head, _, rest = key.partition(".")
    if not rest and head in ("model", "task", "method") and not isinstance(value, Mapping):
        rest = "name"
    if not rest:
        if isinstance(value, Mapping) and head in (*SECTIONS, "task", "method"):
            for inner, item in value.items():
                _put(values, f"{head}.{inner}", item)
            return
        values[head] = value
        return
    section = values.setdefault(head, {})
    if isinstance(section, str) and head in ("model", "task", "method"):
        section = values[head] = {"name": section}
    if section is None:
        section = values[head] = {}
    if not isinstance(section, dict):
        raise ConfigError(f"{head} is not a section", f"known: {', '.join(Config.model_fields)}", key)
    if rest == "name" and head in ("task", "method") and section.get("name") not in (None, value):
        section.clear()  # another method: the old one's own keys mean nothing to it
    if "." in rest:
        inner, _, last = rest.partition(".")
        nested = section.setdefault(inner, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"{head}.{inner} is not a mapping", "", key)
        nested[last] = value
    else:
        section[rest] = value


def _as_config_error(error: ValidationError, values: Mapping[str, Any]) -> ConfigError:
    problems = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        section = str(item["loc"][0]) if len(item["loc"]) > 1 else ""
        if not section and error.title != "Config":  # raised while a task's or method's own section was built
            section = _section_of(error.title, values)
            place = f"{section}.{place}"
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            close = difflib.get_close_matches(key, _known(section, values), n=1, cutoff=0.5)
            advice = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(_known(section, values))}"
            problems.append((f"unknown key {place!r}", advice, place))
        else:
            problems.append((f"{place}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}", "", place))
    text = "; ".join(p if i == 0 or not h else f"{p} ({h})" for i, (p, h, _) in enumerate(problems))
    return ConfigError(text, problems[0][1], problems[0][2])


def _section_of(title: str, values: Mapping[str, Any]) -> str:
    for kind in ("task", "method"):
        section = values.get(kind)
        if isinstance(section, Mapping):
            config = registry.config_class(kind, str(section.get("name")))  # type: ignore[arg-type]
            if config.__qualname__ == title or config.__name__ == title:
                unknown = set(section) - set(config.model_fields)
                if unknown or kind == "method":
                    return kind
    return "method"


def _known(section: str, values: Mapping[str, Any]) -> list[str]:
    if section in ("task", "method"):
        given = values.get(section)
        name = given.get("name", "") if isinstance(given, Mapping) else ""
        return list(registry.config_class(section, name).model_fields)  # type: ignore[arg-type]
    model: type[BaseModel] = SECTIONS.get(section, Config)
    return list(model.model_fields)
