"""A base in 4 or 8 bits, through bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch

from tunery.errors import ModelError


def settings(kind: str, dtype: torch.dtype, keep: tuple[str, ...]) -> Any:
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

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(keep))
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(keep)
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
