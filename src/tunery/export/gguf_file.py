"""A GGUF file from a model in memory, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tunery.errors import ConfigError
from tunery.export import gguf_layout, gguf_vocab

Kind = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]
KINDS: tuple[str, ...] = get_args(Kind)
_FILE_TYPES = {"f32": "ALL_F32"}
_LOOKED_UP = ("token_embd.weight", "output.weight")
"""The head, and the embeddings it may be tied to: what four bits take from it changes every token."""


def write(
    path: Path,
    model: nn.Module,
    tokenizer: Any,
    kind: Kind,
    template: str | None = None,
    turn_ends: Iterable[int] = (),
    about: Mapping[str, str] | None = None,
) -> None:
    """A whole model.

    Args:
        model: a causal language model of transformers, without adapters.
        kind: of the matrices; norms and biases are fp32.
        template: chat template, in Jinja.
        turn_ends: ids that end an answer.
        about: names of the ``general`` section (name, description, license, …) with their values.

    Raises ConfigError: llama.cpp has no such architecture or tokenizer, or the values do not fit into the kind.
    """
    import gguf

    config: Any = model.config
    layout = gguf_layout.layout_of(config)
    vocabulary = gguf_vocab.vocabulary(tokenizer, int(config.vocab_size))
    writer = gguf.GGUFWriter(path, layout.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    _about(writer, about or {})
    gguf_layout.describe(writer, config, layout)
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES.get(kind, f"MOSTLY_{kind.upper()}")))
    if kind.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    gguf_vocab.add(writer, vocabulary, tokenizer, list(turn_ends))
    if template is not None:
        writer.add_chat_template(template)
    finish(writer, lambda: gguf_layout.tensors(model, layout), kind)


def _about(writer: Any, about: Mapping[str, str]) -> None:
    for key, value in about.items():
        writer.add_string(f"general.{key}", value)


def finish(writer: Any, weights: Callable[[], Iterable[tuple[str, Tensor]]], kind: Kind) -> None:
    """Write the file: the header with all tensors' places first, then one tensor after the other.

    Args:
        weights: gives the same tensors each time it is called.

    Raises ConfigError if a value does not fit into the kind.
    """
    import gguf
    import numpy

    kinds = {}
    for name, values in weights():
        kinds[name] = _kind_of(name, tuple(values.shape), kind)
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        writer.add_tensor_info(
            name, tuple(values.shape), numpy.dtype("float32"), values.numel() // block * size, raw_dtype=kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for name, values in weights():
            plain = values.to("cpu", torch.float32).contiguous().numpy()
            if kinds[name] == gguf.GGMLQuantizationType.F16 and not numpy.abs(plain).max() <= numpy.finfo("f2").max:
                raise ConfigError(f"{name} has values beyond fp16's {numpy.finfo('f2').max}", "use bf16", "--dtype")
            writer.write_tensor_data(gguf.quants.quantize(plain, kinds[name]))
    finally:
        writer.close()


def _kind_of(name: str, shape: tuple[int, ...], kind: Kind) -> Any:
    """How a tensor is stored: matrices in the kind asked for where their rows allow it, else in fp16."""
    import gguf

    found = gguf.GGMLQuantizationType
    if len(shape) < 2:
        return found.F32
    if kind == "q4_0" and name in _LOOKED_UP:
        kind = "q8_0"
    asked = found[kind.upper()]
    return asked if shape[-1] % gguf.GGML_QUANT_SIZES[asked][0] == 0 else found.F16
