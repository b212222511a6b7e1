"""What is wrong with a configuration, in words: where, what is needed, and the key that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tunery import registry
from tunery.errors import ConfigError

PLUGINS: tuple[Literal["task"], Literal["method"]] = ("task", "method")
OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "learningrate", "step_size"), "lr"),
    **dict.fromkeys(("num_epochs", "num_train_epochs", "n_epochs"), "epochs"),
    **dict.fromkeys(("per_device_train_batch_size", "bs", "micro_batch_size"), "batch_size"),
    **dict.fromkeys(("gradient_accumulation_steps", "grad_accum"), "accumulate"),
    **dict.fromkeys(("warmup_ratio", "warmup_steps"), "warmup"),
    **dict.fromkeys(("lr_scheduler_type", "scheduler", "lr_scheduler"), "schedule"),
    **dict.fromkeys(("max_grad_norm", "gradient_clipping", "grad_clip"), "clip"),
    **dict.fromkeys(("save_steps", "save_every"), "checkpoint_every"),
    **dict.fromkeys(("report_to", "tracker", "loggers"), "trackers"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "cutoff_len", "max_len", "block_size"), "max_length"),
    **dict.fromkeys(("rank", "lora_r", "lora_rank"), "r"),
    **dict.fromkeys(("lora_alpha",), "alpha"),
    **dict.fromkeys(("lora_dropout",), "dropout"),
    **dict.fromkeys(("target_modules", "lora_target"), "targets"),
    **dict.fromkeys(("eval_steps", "eval_every", "evaluation_strategy"), "every"),
    **dict.fromkeys(("model_name_or_path", "base_model", "pretrained"), "name"),
    **dict.fromkeys(("quantize", "quantization", "load_in_4bit", "load_in_8bit"), "quantise"),
    **dict.fromkeys(("validation_file", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("train_file", "dataset", "file", "path"), "train"),
    **dict.fromkeys(("system_prompt", "system_message"), "system"),
    **dict.fromkeys(("chat_template", "prompt_template"), "template"),
    **dict.fromkeys(("output_dir", "output"), "dir"),
}
"""What other tools call a key: only ever used for a hint."""
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. ``where`` is the key with its section."""

    where: str
    text: str
    hint: str = ""


def together(problems: list[Problem]) -> ConfigError:
    """All problems in one error, one a key."""
    first = problems[0]
    problems = list({p.where: p for p in reversed(problems)}.values())[::-1]
    if len(problems) == 1:
        return ConfigError(first.text, first.hint, first.where)
    parts = [f"{p.where}: {p.text}" + (f" ({p.hint})" if p.hint else "") for p in problems]
    return ConfigError("; ".join(parts).removeprefix(f"{first.where}: "), "", first.where)


def explain(
    error: ValidationError, section: str, values: Mapping[str, Any], models: Mapping[str, Any]
) -> list[Problem]:
    """One problem a key, however many pydantic found in it (each branch of a union is one to pydantic).

    Args:
        error: of validating one section.
        section: its name.
        values: what was given for it.
        models: configuration class by section, to look for the key that was meant.
    """
    by_key: dict[str, list[Any]] = {}
    for item in error.errors():
        by_key.setdefault(str(item["loc"][0]) if item["loc"] else "", []).append(item)
    return [_problem(key, items, section, values, models) for key, items in by_key.items()]


def _problem(key: str, items: list[Any], section: str, values: Mapping[str, Any], models: Mapping[str, Any]) -> Problem:
    where = f"{section}.{key}".rstrip(".")
    item = items[0]
    if item["type"] == "extra_forbidden":
        return unknown(section, key, values, models)
    if item["type"] == "missing":
        return Problem(where, "is missing", models[section].model_fields[key].description or "")
    bound = next((i for i in items if i["type"] in _BOUNDS), None)
    if bound is not None:
        return Problem(where, f"{bound['msg'].replace('Input should', 'must')}, not {shown(bound['input'])}")
    field = models[section].model_fields.get(key)
    if field is None:
        return Problem(where, item["msg"])
    return wrong(where, field.annotation, item["input"])


def wrong(where: str, annotation: Any, value: Any) -> Problem:
    """A value of the wrong type."""
    choices = [str(choice) for choice in _choices(annotation)]
    hint = ""
    if isinstance(value, str) and choices:
        close = difflib.get_close_matches(value, choices, n=1, cutoff=0.6)
        hint = f"write [{value}]" if close == [value] else f"did you mean {close[0]!r}?" if close else ""
    elif "text" in needed(annotation).split(" or ") and isinstance(value, Mapping | bool):
        hint = "put it in quotes"
    return Problem(where, f"{needed(annotation)} is needed, not {shown(value)}", hint)


def unknown(section: str, key: str, values: Mapping[str, Any], models: Mapping[str, Any]) -> Problem:
    """A key that does not exist; ``section`` is empty for one beside the sections."""
    where = f"{section}.{key}" if section else key
    known = list(models[section].model_fields) if section else list(dict.fromkeys([*models, *PLUGINS]))
    text = "unknown key"
    if section in PLUGINS:
        text += f" of {section} {values.get('name')}"
    return Problem(where, text, _meant(section, key, known, models))


def _meant(section: str, key: str, known: list[str], models: Mapping[str, Any]) -> str:
    for name in filter(None, (key, OTHER_NAMES.get(key))):
        for place in sorted(models, key=lambda other: other != section):
            if name in models[place].model_fields:
                return f"did you mean {place + '.' + name!r}?"
    if close := difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return f"did you mean {'.'.join(filter(None, (section, close[0])))!r}?"
    for kind in PLUGINS:
        names = registry.names(kind) if section == kind else []
        owners = [f"{kind}={name}" for name in names if key in registry.config_class(kind, name).model_fields]
        if owners:
            return f"it is a key of {' and '.join(owners)}"
    return f"known: {', '.join(name for name in known if section not in PLUGINS or name != 'name') or 'none'}"


def needed(annotation: Any) -> str:
    """Words for a type: ``a whole number or null``."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return needed(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(needed(part) for part in parts))
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(map(str, parts))
    if origin is list:
        return "a list of " + ("texts" if parts[0] is str else needed(parts[0]).removeprefix("one of "))
    plain = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return plain.get(annotation, "a mapping {name: value}")


def shown(value: Any) -> str:
    """A wrong value, short, as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def booleans(section: str, values: Mapping[str, Any], model: type[BaseModel]) -> list[Problem]:
    """``true`` where a number is needed: pydantic would take it for 1."""
    found = []
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is not None and isinstance(value, bool) and "true or false" not in needed(field.annotation):
            found.append(wrong(f"{section}.{key}", field.annotation, value))
    return found


def _choices(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return [choice for part in get_args(annotation) for choice in _choices(part)]
