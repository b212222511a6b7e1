"""The sections of a configuration: every key with its default and its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializeAsAny, ValidationInfo, field_validator

from tunery.config import steps
from tunery.errors import ConfigError
from tunery.protocols import Strict

SCHEMA_VERSION = 1
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
        return steps.parse("cleaner" if info.field_name == "clean" else "augmenter", value)


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
