"""What methods that come from peft share. peft changes the model in place; its wrapper only saves and switches.

The wrapper hangs on the model outside of torch's module registry (it contains the model: a cycle otherwise).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from tunery.errors import ModelError

_SLOT = "_tunery_peft"


def handle(model: nn.Module) -> Any:
    """Peft's wrapper of this model."""
    return vars(model)[_SLOT]


def attach(model: nn.Module, config: Any) -> None:
    """Add a peft method. Adapters get the dtype of the base: fp32 copies are the optimizer's business."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = get_peft_model(model, config, autocast_adapter_dtype=False)
    object.__setattr__(model, _SLOT, wrapper)


def save(model: nn.Module, folder: Path) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as plain peft reads them."""
    handle(model).save_pretrained(folder, save_embedding_layers=False)
    _sort_targets(folder / "adapter_config.json")
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty card


def _sort_targets(path: Path) -> None:
    """Peft writes sets in the order of the process's hash seed; the same run must give the same bytes."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(values.get(key), list):
            values[key] = sorted(values[key])
    path.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def load(model: nn.Module, folder: Path, name: str) -> None:
    """Raises ModelError if the adapter is missing, damaged or of another base."""
    from peft import PeftModel

    device = str(next(model.parameters()).device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if _SLOT in vars(model):
                handle(model).load_adapter(
                    folder, name, torch_device=device, autocast_adapter_dtype=False, low_cpu_mem_usage=False
                )
            else:
                wrapper = PeftModel.from_pretrained(
                    model, folder, adapter_name=name, torch_device=device, autocast_adapter_dtype=False
                )
                object.__setattr__(model, _SLOT, wrapper)
    except Exception as error:  # peft and safetensors raise many types for a damaged or foreign adapter
        raise ModelError(f"adapter cannot be loaded: {error}", "is it of this base model?", str(folder)) from error
    model.eval()


def activate(model: nn.Module, name: str | None) -> None:
    wrapper = handle(model)
    if name is None:
        wrapper.base_model.disable_adapter_layers()
    else:
        wrapper.base_model.enable_adapter_layers()
        wrapper.set_adapter(name)


def merge(model: nn.Module) -> None:
    """Fold the active adapter into the base weights."""
    handle(model).merge_and_unload()
    del vars(model)[_SLOT]
