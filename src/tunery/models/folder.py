"""What is in a model folder, read from its JSON and safetensors headers without loading anything."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunery.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
TO_CONVERT = "tunery reads no pickles; where you trust the file: transformers' save_pretrained writes safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError if the file is missing or not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no {path.name}", "name the folder that save_pretrained wrote", str(path.parent)) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", "get the file again", str(path)) from None
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", "get the file again", str(path))
    return value


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, in order of name.

    Raises ModelError: none (the message tells whether there are pickles), or one of the shards is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise ModelError(f"weights are missing: {', '.join(missing[:3])}", "get the model again", str(folder))
        return [folder / name for name in names]
    if any(found for pattern in PICKLES for found in folder.glob(pattern)):
        raise ModelError("only pickled weights (.bin), no safetensors", TO_CONVERT, str(folder))
    if any(folder.glob("*.gguf")):
        raise ModelError("a folder of GGUF files", "name the .gguf file itself", str(folder))
    raise ModelError(f"no weights ({SINGLE})", "is it a model folder?", str(folder))


def check(folder: Path) -> None:
    """Whether ``folder`` holds a model that tunery may load. Raises ModelError that says why not."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError("an adapter, not a base model", "merge it into its base first", str(folder))
        if (folder / "manifest.json").is_file() and (folder / "model").is_dir():
            raise ModelError("a run, not a base model", "tunery export RUN --to merged makes one", str(folder))
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not _known(kind):
        if config.get("auto_map"):
            raise ModelError(
                f"model type {kind!r} comes with its own Python code, which tunery never runs",
                "choose a model that transformers supports itself",
                str(folder),
            )
        hint = "choose a model that transformers supports" if kind else "add model_type to config.json"
        raise ModelError(f"unknown model type {kind!r}", hint, str(folder / "config.json"))
    weight_files(folder)


def _known(kind: object) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def tensors(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, dtype and shape of every tensor, from the safetensors headers. Raises ModelError if damaged."""
    for path in weight_files(folder):
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > path.stat().st_size:
                    raise ValueError("it ends too early")
                header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    yield name, str(entry["dtype"]), [int(n) for n in entry["shape"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise ModelError(f"damaged weights: {error}", "get the file again", str(path)) from None


def parameters(folder: Path) -> int:
    """Number of floating-point weights. Raises ModelError if the files are damaged."""
    return sum(math.prod(shape) for _, dtype, shape in tensors(folder) if dtype.startswith(("F", "BF")))


def pooling(folder: Path) -> str:
    """``mean``, ``cls`` or ``max`` as sentence-transformers wrote it down, else ``stock``."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return "stock"
    values = read_json(path)
    for key, kind in (("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max")):
        if values.get(f"pooling_mode_{key}"):
            return kind
    return "stock"
