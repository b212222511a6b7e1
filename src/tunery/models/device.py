"""Where a model computes, and in which type of number."""

from __future__ import annotations

from pathlib import Path

import torch

from tunery.config import ModelConfig
from tunery.errors import ConfigError, ModelError


def device_of(config: ModelConfig) -> torch.device:
    """The device to compute on. Raises ConfigError: no such name; ModelError: this machine has none."""
    if config.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError:
        raise ConfigError(f"unknown device {config.device!r}", "auto, cpu, cuda, cuda:1, mps", "model.device") from None
    there = {
        "cpu": True,
        "cuda": (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in there:
        raise ConfigError(f"unknown device {config.device!r}", "auto, cpu, cuda, cuda:1, mps", "model.device")
    if not there[device.type]:
        raise ModelError(f"this machine has no device {config.device}", "model.device=auto", "model.device")
    return device


def dtype_of(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The type weights are stored and computed in; ``auto`` is bfloat16 only where the hardware multiplies it."""
    if config.dtype != "auto":
        return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    """Linux only; elsewhere float32 is right anyway, only slower than it might be."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)
