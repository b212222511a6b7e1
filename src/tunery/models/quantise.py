"""A base in 4 or 8 bits, through bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tunery.errors import ModelError

KINDS = ("Linear4bit", "Linear8bitLt")
FLAGS = ("is_loaded_in_4bit", "is_loaded_in_8bit")


def settings(name: str, dtype: torch.dtype, keep: tuple[str, ...]) -> Any:
    """A quantisation config of transformers for ``nf4``, ``fp4`` or ``int8``; modules in ``keep`` stay as they are.

    Raises ModelError if bitsandbytes is missing.
    """
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:  # a build that does not fit the machine raises OSError or RuntimeError
        missing = isinstance(error, ImportError)
        problem = "quantised bases need bitsandbytes" if missing else f"bitsandbytes does not start: {error}"
        raise ModelError(problem, "pip install 'tunery[quantise]', or model.quantise=null", "model.quantise") from None
    from transformers import BitsAndBytesConfig

    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(keep))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,  # QLoRA (arXiv:2305.14314): the scales in 8 bits, 0.4 bits a weight less
        llm_int8_skip_modules=list(keep),
    )


def kept(model_class: Any, config: Any) -> tuple[str, ...]:
    """Modules that are not to be quantised: everything beside the backbone (heads, new or not), and poolers.

    They are looked up on the meta device, which costs no memory.
    """
    with torch.device("meta"):
        model = model_class.from_config(config)
    backbone = model.base_model
    heads = [name for name, child in model.named_children() if backbone is not model and child is not backbone]
    output = model.get_output_embeddings()
    heads += [name for name, child in model.named_modules() if child is output or name.rpartition(".")[2] == "pooler"]
    return tuple(sorted(set(heads)))


def repair(model: Any) -> None:
    """Switch off a kernel of bitsandbytes 0.50 that repacks 4-bit weights in the first eval forward.

    On AVX512-BF16 processors, training gradients after it are 79 % wrong, and so is a merge.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def kind(model: nn.Module) -> str | None:
    """``4 bit``, ``int8`` or None; a wrapper of ours around a quantised backbone counts as quantised."""
    found = next((type(module).__name__ for _, module in _layers(model)), None)
    return {None: None, "Linear4bit": "4 bit", "Linear8bitLt": "int8"}[found]


def is_quantised(model: nn.Module) -> bool:
    return kind(model) is not None


def layers(model: nn.Module) -> list[nn.Module]:
    """Quantised layers."""
    return [module for _, module in _layers(model)]


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Quantised layers by name; peft's adapters around them are named like them."""
    for name, module in model.named_modules():
        if type(module).__name__ in KINDS and type(module).__module__.startswith("bitsandbytes."):
            yield name, module


def compute_dtype(model: Any) -> torch.dtype:
    """What the layers beside the quantised ones compute in."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


def tell(model: Any) -> None:
    """Say to peft that the model is quantised, where only a part inside says so (a pooled encoder)."""
    for flag in FLAGS:
        if any(vars(module).get(flag) for module in model.modules()):
            object.__setattr__(model, flag, True)


@torch.no_grad()
def dequantise(model: Any) -> None:
    """Replace quantised layers by plain ones with the very weights they compute with, in place."""
    from peft.utils.integrations import dequantize_bnb_weight
    from transformers.pytorch_utils import Conv1D

    dtype = compute_dtype(model)
    for name, module in list(_layers(model)):
        weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None)).to(dtype)
        rows, columns = weight.shape
        transposed = getattr(module, "source_cls", nn.Linear) is Conv1D
        with torch.device("meta"):
            plain: Any = Conv1D(rows, columns) if transposed else nn.Linear(columns, rows, module.bias is not None)
        plain.weight = nn.Parameter(weight.t().contiguous() if transposed else weight, requires_grad=False)
        if module.bias is not None:
            plain.bias = nn.Parameter(module.bias.detach().to(dtype), requires_grad=False)
        model.set_submodule(name, plain)
    for module in model.modules():
        for flag in (*FLAGS, "is_quantized", "quantization_method", "hf_quantizer"):
            vars(module).pop(flag, None)
        config = getattr(module, "config", None)
        for key in ("quantization_config", "_is_quantized"):
            getattr(config, "__dict__", {}).pop(key, None)
