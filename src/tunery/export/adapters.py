"""Adapters in peft's format: where a run has one, and how to load it onto its base."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from tunery.export import tokens
from tunery.export.kind import DTYPES, Subject
from tunery.models import quantise, weights
from tunery.models.load import HUB_ID
from tunery.rundir import write_json

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write(subject: Subject, folder: Path, dtype: str) -> None:
    """The adapter with its base's name, and the tokenizer."""
    found = source(subject)
    assert found is not None
    settings = json.loads((found / CONFIG).read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": base_name(subject), "revision": subject.config.model.revision}
    write_json(folder / CONFIG, settings)
    if dtype == subject.dtype:
        shutil.copyfile(found / WEIGHTS, folder / WEIGHTS)
    else:
        stored = weights.read(found / WEIGHTS)
        weights.save({name: tensor.to(DTYPES[dtype]) for name, tensor in stored.items()}, folder / WEIGHTS)
    tokens.save(subject, folder)


def job(subject: Subject) -> dict[str, Any]:
    """What plain transformers and peft need to load it."""
    base: dict[str, Any] = {"folder": str(subject.base.folder), "dtype": torch_name(subject)}
    base["config"] = head(subject)
    if subject.base.quantised:
        base["quantise"] = bits(subject)
    return {"loader": subject.loader, "base": base}


def source(subject: Subject) -> Path | None:
    """Where the run has its weights in peft's format."""
    folder = subject.run.dir.model
    return next((place for place in (folder, folder / "peft") if (place / CONFIG).is_file()), None)


def base_name(subject: Subject) -> str:
    """The base's id on the hub, or the folder it was read from: a pack is not what the hub has (its weights come from a
    quantised file).
    """
    name = subject.config.model.name
    on_hub = HUB_ID.fullmatch(name) and not Path(name).exists()
    return name if on_hub else str(Path(subject.base.folder).absolute())


def head(subject: Subject) -> dict[str, Any]:
    """Arguments by which plain transformers makes a head of the same shape."""
    if not subject.head or subject.outputs is None:
        return {}
    return {"num_labels": len(subject.outputs), "id2label": subject.outputs}


def bits(subject: Subject) -> dict[str, Any]:
    """Arguments of ``BitsAndBytesConfig`` as the run's base was loaded."""
    import transformers

    model_class = getattr(transformers, str(subject.loader))
    keep = quantise.kept(model_class, copy.deepcopy(subject.base.config))
    made = quantise.settings(str(subject.base.quantised), subject.base.dtype, keep)
    return {key: value for key, value in made.to_dict().items() if key != "quant_method" and not key.startswith("_")}


def torch_name(subject: Subject) -> str:
    return str(subject.base.dtype).removeprefix("torch.")
