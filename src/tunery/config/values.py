"""Plain values, unchecked: from a YAML file, and from ``section.key=value`` on top of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tunery.config import yaml12
from tunery.config.problems import PLUGINS
from tunery.config.sections import SECTIONS, Config
from tunery.errors import ConfigError

DEFAULT_FILE = "tunery.yaml"
DEFAULT_METHOD = "lora"
NAMED = ("model", *PLUGINS)
"""Sections for which a bare value means the name."""


def read(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a YAML file with overrides on top, ``search`` among them, unchecked. Raises ConfigError."""
    return override(_read(Path(path)) if path is not None else {}, overrides)


def override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Put ``a.b=c`` on top of plain values, unchecked. Raises ConfigError for what is no override."""
    _put_all(values, [_parsed(item) for item in overrides])
    return values


def put(values: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """As ``override``, with ``{"train.lr": 2e-4}``."""
    _put_all(values, settings.items())
    return values


def parse_scalar(text: str) -> Any:
    """A value from the command line: YAML where it is meant as such, else the text itself."""
    return yaml12.value(text)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml12.load(path.read_text(encoding="utf-8-sig"))
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
