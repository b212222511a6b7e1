"""Tensors by name, in and out of safetensors files; nothing is ever pickled."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tunery.errors import ModelError


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Libraries written in Rust report a full disk by errors of their own; make it the OSError that it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = re.search(r"os error (\d+)|Os \{ code: (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1] or found[2])
        raise OSError(number, os.strerror(number)) from error


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors; names that share memory (tied weights) are written once."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        unique[name] = tensor.detach().to("cpu").contiguous()
    with disk_errors():
        save_file(unique, path, metadata={"format": "pt"})


def read(path: Path) -> dict[str, Tensor]:
    """Raises ModelError if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError("weights are missing", "restore the run or train it again", str(path)) from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"damaged weights: {error}", "restore the run or train it again", str(path)) from None


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors onto the parameters and buffers of the same names. Raises ModelError if any does not fit."""
    own: dict[str, Any] = {**dict(model.named_buffers(remove_duplicate=False))}
    own |= dict(model.named_parameters(remove_duplicate=False))
    unknown = [name for name in tensors if name not in own]
    wrong = [name for name in tensors if name in own and own[name].shape != tensors[name].shape]
    if unknown or wrong:
        raise ModelError(
            f"{len(unknown)} weights have no place in the model and {len(wrong)} another shape, "
            f"for example {(unknown + wrong)[0]!r}",
            "these weights belong to another base model",
            str(where),
        )
    for name, tensor in tensors.items():
        put(own[name], tensor)


_SHARED = "_tunery_shared"


def share(parameter: Tensor) -> None:
    """Mark a parameter whose memory belongs to other models too."""
    setattr(parameter, _SHARED, True)


@torch.no_grad()
def put(parameter: Tensor, value: Tensor) -> None:
    """Give a parameter a value. Memory that it shares with other models is left as it is: it then gets its own, unless
    it has that value already.
    """
    if not getattr(parameter, _SHARED, False):
        parameter.copy_(value)
        return
    new = value.to(parameter.device, parameter.dtype)
    if not torch.equal(new, parameter):
        parameter.data = new.clone()
        setattr(parameter, _SHARED, False)


@torch.no_grad()
def separate(model: nn.Module) -> None:
    """Give all parameters memory of their own, before something writes into them in place."""
    for parameter in model.parameters():
        if getattr(parameter, _SHARED, False):
            parameter.data = parameter.data.clone()
            setattr(parameter, _SHARED, False)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes; equal digests mean bitwise equal weights."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def blend(
    model: nn.Module, start: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float, parts: tuple[str, ...]
) -> None:
    """Put ``start + share (trained - start)`` into every trained parameter in whose name one of ``parts`` stands, and
    what was trained into the others. Share 1 gives ``trained`` to the bit, share 0 ``start``.
    """
    for name, parameter in trainable(model).items():
        value = trained[name]
        if any(part in name for part in parts):
            value = torch.lerp(start[name].float(), value.float(), share)
        parameter.copy_(value)


def freeze(model: nn.Module) -> None:
    model.requires_grad_(False)


def train_modules(model: nn.Module, names: tuple[str, ...]) -> None:
    """Free the parameters of the named modules."""
    modules = dict(model.named_modules())
    for name in names:
        modules[name].requires_grad_(True)
