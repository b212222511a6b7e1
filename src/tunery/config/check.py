"""Plain values → a configuration, or all that is wrong with them in one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from tunery import registry
from tunery.config import problems as wrong
from tunery.config import steps
from tunery.config.problems import PLUGINS, Problem
from tunery.config.sections import SCHEMA_VERSION, SECTIONS, Config
from tunery.config.values import DEFAULT_METHOD, NAMED
from tunery.errors import ConfigError
from tunery.protocols import Strict

SEARCH = "search"
"""The part of a configuration file that only ``tunery search`` reads."""


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
    problems += [wrong.unknown("", str(key), {}, models) for key in values if key not in known]
    version = values.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        text = f"a file of version {version}, this tunery reads {SCHEMA_VERSION}"
        problems.append(Problem("schema_version", text, "use the tunery that wrote it"))
    sections: dict[str, Strict] = {}
    for name, model in models.items():
        problems += wrong.booleans(name, given[name], model)
        if name == "data":
            given[name] |= _steps(given[name], problems)
        try:
            sections[name] = model.model_validate(given[name])
        except ValidationError as error:
            problems += wrong.explain(error, name, given[name], models)
        except ConfigError as error:  # of a validator that has words of its own
            problems.append(Problem(error.where, error.problem, error.hint))
    if problems:
        raise wrong.together(problems)
    return Config.model_validate(sections)


def _mapping(name: str, section: Any, problems: list[Problem]) -> dict[str, Any]:
    """What was given for a section; one whose keys are all commented out is empty."""
    if isinstance(section, Mapping):
        return {str(key): value for key, value in section.items()}
    if name in NAMED and isinstance(section, str):
        return {"name": section}
    if section is not None:
        text = f"a section with keys of its own is needed, not {wrong.shown(section)}"
        keys = ", ".join(SECTIONS.get(name, Config).model_fields)
        hint = f"write {name}: {{name: NAME}}" if name in NAMED else f"known: {keys}"
        problems.append(Problem(name, text, hint))
    return {}


def _steps(data: Mapping[str, Any], problems: list[Problem]) -> dict[str, list[Strict]]:
    """Of both lists, so that their problems come together."""
    kinds: dict[str, steps.Kind] = {"clean": "cleaner", "augment": "augmenter"}
    return {key: steps.collect(kind, data[key], problems) for key, kind in kinds.items() if key in data}


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
        problems.append(Problem(where, f"unknown {kind} {wrong.shown(name)}", hint))
    elif section.keys() - {"name"}:
        having = [n for n in names if section.keys() <= registry.config_class(kind, n).model_fields.keys()]
        hint = f"{kind}={having[0]} has such keys" if having else f"known: {', '.join(names)}"
        first = next(key for key in section if key != "name")
        problems.append(Problem(where, f"is missing, but {kind}.{first} is given", hint))
    elif kind == "method":
        problems.append(Problem(where, "is missing", f"known: {', '.join(names)}"))
    return None
