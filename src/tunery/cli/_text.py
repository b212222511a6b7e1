"""Tables and arguments that several verbs share."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tunery.errors import ConfigError

if TYPE_CHECKING:
    from tunery.config import Config


def width(text: str) -> int:
    """Columns a text takes on a terminal: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows under their column names."""
    cells = [list(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(width(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = (text + " " * (size - width(text)) for text, size in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def scores(columns: Mapping[str, Mapping[str, float] | None]) -> None:
    """Numbers side by side: one line a metric, one column a model."""
    present = {name: values for name, values in columns.items() if values}
    names = list(dict.fromkeys(metric for values in present.values() for metric in values))
    rows = [{"metric": m, **{name: values.get(m) for name, values in present.items()}} for m in names]
    table(rows, ["metric", *present])


def forgetting(found: Mapping[str, Any] | None) -> str | None:
    """What the training has done to the rest of the model's skills, in one line."""
    if not found:
        return None
    probes = found["probes"]
    line = (
        f"general text ({found['text']}): loss {found['before']:.4f} before, {found['after']:.4f} after "
        f"({found['relative']:+.1%}); general questions right: {probes['before']} before, {probes['after']} after, "
        f"of {probes['questions']}"
    )
    if found.get("bound") is None:
        return line
    scale = "none was found" if found["scale"] is None else f"{found['scale']:g}"
    return f"{line}; scale for at most {found['bound']:.2%}: {scale} (as trained {found['unscaled']:+.1%})"


def overfitting(found: Mapping[str, Any] | None) -> str | None:
    """What there is to say of the gap between training and validation loss, in one line."""
    if not found or found["since_step"] is None:
        return None
    since = f"from step {found['since_step']} on" if found["since_step"] else "from the start"
    grew = f"the gap between training and validation loss grew {since}"
    ended = f"{found['training_loss']:.4g} and {found['validation_loss']:.4g} at the end"
    if not found["rose"]:
        return f"{grew} ({ended}), while the validation loss still fell"
    lowest = f"the latter was lowest, {found['lowest_validation_loss']:.4g}, at step {found['lowest_at_step']}"
    return f"overfitting: {grew} ({ended}); {lowest}; the run keeps the weights of step {found['kept_step']}"


def retention(found: Mapping[str, Any] | None) -> None:
    """Numbers on new and old validation rows before and after a run went on from another."""
    if not found:
        return
    for side in ("new", "old"):
        if numbers := found.get(side):
            click.echo(f"\non the {side} validation rows ({numbers['rows']}), before and after this run:")
            scores({"before": numbers["before"], "after": numbers["after"]})
    click.echo(f"\n{found['replayed']} of {found['old_rows']} old training rows were replayed (train.replay)")
    if found.get("problem"):
        click.echo(f"what is kept of the old rows was not measured: {found['problem']}")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def config_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """``[CONFIG] [section.key=value …]``."""
    return click.argument("arguments", nargs=-1, metavar="[CONFIG] [SECTION.KEY=VALUE]...")(function)


def read_config(arguments: Sequence[str]) -> Config:
    """A configuration from a file named first (else ./tunery.yaml, if there is one) and overrides."""
    from tunery import config as configuration  # pydantic takes half of the time --help may take

    return configuration.build(read_values(arguments))


def _refuse_data(path: Path) -> None:
    """A data file or a run where a configuration is meant; JSON may be either."""
    from tunery.data.inputs import KINDS

    if (path / "config.yaml").exists():
        raise ConfigError("a run, not a configuration", f"its own is {path / 'config.yaml'}", str(path))
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if path.is_dir() or (kind in KINDS and kind != ".json"):
        hint = f"data.train={path}; or tunery init {path} writes a configuration"
        raise ConfigError("data, not a configuration", hint, str(path))


def read_values(arguments: Sequence[str]) -> dict[str, Any]:
    """As ``read_config``, unchecked and with what only ``tunery search`` reads."""
    from tunery import config as configuration

    files = [a for a in arguments if "=" not in a]
    for file in files:
        _refuse_data(Path(file))
    overrides = [a for a in arguments if "=" in a]
    if len(files) > 1:
        raise click.UsageError(f"one configuration file at most, not {', '.join(files)}")
    path: str | None = files[0] if files else None
    if path is None and Path(configuration.DEFAULT_FILE).exists():
        path = configuration.DEFAULT_FILE
    return configuration.read(path, overrides)
