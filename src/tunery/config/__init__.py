"""The configuration: about ten keys start a project, every key has a default and its help beside it.

Strict: an unknown key is an error that names the nearest known one, and all problems are reported at once.
``task`` and ``method`` also take the keys of the chosen task and method; those are checked here too,
without loading torch. Naming another method or task in an override drops the keys of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunery.config import yaml12
from tunery.config.check import SEARCH, build
from tunery.config.sections import (
    SECTIONS,
    Config,
    DataConfig,
    EvalConfig,
    Files,
    ModelConfig,
    RunConfig,
    TrainConfig,
)  # fmt: skip
from tunery.config.values import DEFAULT_FILE, DEFAULT_METHOD, NAMED, override, parse_scalar, put, read

__all__ = [
    "DEFAULT_FILE", "DEFAULT_METHOD", "NAMED", "SEARCH", "SECTIONS", "Config", "DataConfig", "EvalConfig", "Files",
    "ModelConfig", "RunConfig", "TrainConfig", "build", "dump", "load", "override", "parse_scalar", "put", "read",
]  # fmt: skip


def load(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """Read a YAML file, put ``values`` and then ``a.b=c`` overrides on top, check everything.

    Raises ConfigError: no such file, not YAML, unknown or wrong keys (all of them in one message).
    """
    return build(override(put(read(path), values or {}), overrides))


def dump(config: Config) -> str:
    return yaml12.dump(config.dump())
