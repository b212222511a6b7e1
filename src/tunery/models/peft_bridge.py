"""What methods that come from peft share. peft changes the model in place; its wrapper only saves and switches.

The wrapper hangs on the model outside of torch's module registry (it contains the model: a cycle otherwise).
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunery.errors import ModelError
from tunery.models import quantise, quantised_adapters, weights

WEIGHTS = "adapter_model.safetensors"

_SLOT = "_tunery_peft"


def handle(model: nn.Module) -> Any:
    """Peft's wrapper of this model."""
    return vars(model)[_SLOT]


def config(model: nn.Module, name: str = "default") -> Any:
    """Peft's configuration of an adapter."""
    return handle(model).peft_config[name]


def configure(model: nn.Module, name: str = "default", **values: Any) -> None:
    """Change what will be written to ``adapter_config.json``."""
    for key, value in values.items():
        setattr(config(model, name), key, value)


def attach(model: nn.Module, settings: Any) -> None:
    """Add a peft method. Adapters get the dtype of the base: fp32 copies are the optimizer's business."""
    from peft import get_peft_model

    quantise.tell(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper = get_peft_model(model, settings, autocast_adapter_dtype=False)
    object.__setattr__(model, _SLOT, wrapper)
    quantised_adapters.repair(model)


def task_type(model: nn.Module) -> str | None:
    """Peft's name for what plain peft is to build around the base; it decides nothing here."""
    name = type(model).__name__
    endings = {
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS",
        "ForConditionalGeneration": "SEQ_2_SEQ_LM",
        "ForCausalLM": "CAUSAL_LM",
        "LMHeadModel": "CAUSAL_LM",
    }
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), None)


def save(model: nn.Module, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as plain peft reads them.

    ``state``: the wrapper's state, where it is another than ``state_dict()`` gives.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AdaLoRA may have taken a layer's last rank, which peft holds for an accident
        handle(model).save_pretrained(folder, save_embedding_layers=False, state_dict=state)
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

    if not (folder / WEIGHTS).is_file():  # peft would look for a pickle, then on the hub
        raise ModelError(f"{WEIGHTS} is missing", "restore the run or train it again", str(folder))
    device = str(next(model.parameters()).device)
    quantise.tell(model)
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
    quantised_adapters.repair(model)
    model.eval()


def activate(model: nn.Module, name: str | None) -> None:
    wrapper = handle(model)
    if name is None:
        wrapper.base_model.disable_adapter_layers()
    else:
        wrapper.base_model.enable_adapter_layers()
        wrapper.set_adapter(name)


def merge(model: nn.Module) -> None:
    """Fold the active adapter into the base weights; a quantised base becomes a plain one first.

    It must be the dequantised weights, not those from before quantising: the adapter was trained on these.
    """
    wrapper = handle(model)
    weights.separate(model)
    with torch.no_grad():
        if quantise.is_quantised(model):
            wrapper = _on_plain_base(model, wrapper)
        _put_heads(model)
        wrapper.merge_and_unload()
    del vars(model)[_SLOT]


def _put_heads(model: nn.Module) -> None:
    """Trained heads in place of peft's wrappers, which its IA3 cannot take off a head of several layers."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])


def _on_plain_base(model: nn.Module, wrapper: Any) -> Any:
    """Dequantise, take the active adapter off and put it on again: peft's layers differ by kind of base."""
    with tempfile.TemporaryDirectory() as scratch:
        name = wrapper.active_adapter
        wrapper.save_pretrained(scratch, selected_adapters=[name], save_embedding_layers=False)
        quantise.dequantise(model)
        _put_heads(model)
        wrapper.unload()
        del vars(model)[_SLOT]
        folder = Path(scratch) if name == "default" else Path(scratch, name)
        load(model, folder, "default")
    return handle(model)
