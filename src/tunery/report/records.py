"""What lies in a run directory, as far as it is there: a run that failed or is not finished has less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tunery.errors import ModelError
from tunery.rundir import RunDir, read_json, read_jsonl

SPLITS = ("test", "validation")
"""Those that a run is judged by, the better one first."""
LOSSES = ("loss", "perplexity")
MOST = 20_000
"""Predictions that are read."""


@dataclass(slots=True)
class Evaluation:
    """``eval/NAME/``: numbers on some rows and what was predicted for each."""

    name: str
    rows: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: dict[str, Any] | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)
    """In the order of the rows, the first ``MOST`` at most."""
    generated: int = 0
    """Rows that were answered, of a task that writes text."""
    intervals: dict[str, tuple[float, float]] | None = None
    """Found by ``intervals.of`` when first asked for."""

    @property
    def answered(self) -> int:
        """Rows that the numbers are about, losses apart."""
        return self.generated or self.rows


@dataclass(slots=True)
class Records:
    """A run directory, read."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    config_text: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Of metrics.jsonl, one a step."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Of metrics.jsonl, one an evaluation."""
    ledger: dict[str, Any] = field(default_factory=dict)
    forgetting: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    def named(self, section: str) -> str:
        """The name in a section: of the model, the task, the method."""
        value = self.config.get(section)
        return str(value.get("name") or "–") if isinstance(value, Mapping) else "–"

    def setting(self, section: str, key: str) -> Any:
        value = self.config.get(section)
        return value.get(key) if isinstance(value, Mapping) else None

    @property
    def judged_by(self) -> Evaluation | None:
        """The rows that count: those of test, else of validation."""
        return next((self.evaluations[name] for name in SPLITS if name in self.evaluations), None)

    def base(self, evaluation: Evaluation) -> Evaluation | None:
        """The untouched model on the same rows."""
        return self.evaluations.get(f"{evaluation.name}-base")


def read(run: RunDir) -> Records:
    """Raises ModelError for a damaged file; what is missing is left out."""
    text = run.config_file.read_text(encoding="utf-8") if run.config_file.is_file() else ""
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ModelError(f"damaged: {error}", "restore the run or train it again", str(run.config_file)) from None
    found = Records(run.path, run.manifest(), config if isinstance(config, dict) else {}, text)
    for record in read_jsonl(run.metrics_file, torn=True):
        (found.validations if "validation" in record else found.steps).append(record)
    found.ledger = _object(run.ledger_file)
    found.forgetting = _object(run.path / "forgetting.json")
    for folder in sorted(run.evaluation("").glob("*/results.json")):
        found.evaluations[folder.parent.name] = _evaluation(folder.parent)
    return found


def _evaluation(folder: Path) -> Evaluation:
    results = _object(folder / "results.json")
    return Evaluation(
        folder.name,
        int(results.get("rows") or 0),
        dict(results.get("metrics") or {}),
        dict(results.get("baselines") or {}),
        results.get("confusion"),
        read_jsonl(folder / "predictions.jsonl", MOST),
        int(results.get("generated_rows") or 0),
    )


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file) if file.is_file() else {}
    return value if isinstance(value, dict) else {}
