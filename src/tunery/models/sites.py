"""Where methods attach: the layer stack, the embeddings and the output head of any architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunery.errors import ConfigError, ModelError


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Layer stacks with their names: one for encoders and decoders, two for encoder-decoder models.

    A stack is a ModuleList that is not inside another one; experts and the like are. Raises ModelError.
    """
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(outer + ".") for outer, _ in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            found.append((name, module))
    longest = max((len(stack) for _, stack in found), default=0)
    if not longest:
        raise ModelError(f"no layer stack found in {type(model).__name__}", "use method=full")
    depth = {int(n) for n in _depths(getattr(model, "config", None)) if n}
    kept = [(name, stack) for name, stack in found if len(stack) in depth]
    return kept or [(name, stack) for name, stack in found if len(stack) == longest]


def _depths(config: Any) -> Iterator[int | None]:
    for key in ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers", "decoder_layers"):
        yield getattr(config, key, None)


def is_linear(module: nn.Module) -> bool:
    """Linear layers, GPT-2's transposed ``Conv1D`` and quantised ones."""
    return isinstance(module, nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")


def linear_names(model: nn.Module) -> list[str]:
    """Full names of all linear layers inside the stacks: what "all linear layers" means for LoRA."""
    names = []
    for stack, layers in stacks(model):
        names += [f"{stack}.{name}" for name, module in layers.named_modules() if is_linear(module)]
    return names


def short_targets(model: nn.Module, names: list[str]) -> list[str]:
    """The same layers by their last name ("q_proj") where nothing else has that name, as peft and vLLM
    expect it; full names where that would catch a layer outside the stack (BERT's ``pooler.dense``).
    """
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    wanted = set(names)
    clash = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if is_linear(module) and name not in wanted and name.rsplit(".", 1)[-1] in leaves
    }
    return sorted(leaves - clash) + sorted(name for name in names if name.rsplit(".", 1)[-1] in clash)


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the parameters of the embeddings, tied output heads included."""
    modules = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Embedding) or "embed" in name.lower()]
    return {f"{name}.{parameter}" for name, m in modules for parameter, _ in m.named_parameters()}


def output_head(model: Any) -> str | None:
    """Name of the output layer of a language model."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return next((name for name, module in model.named_modules() if module is head), None) if head is not None else None


_KEYS_VALUES = ("key", "value", "key_proj", "value_proj", "k_proj", "v_proj", "k_lin", "v_lin", "k", "v")
_FUSED = ("Wqkv", "c_attn", "query_key_value", "qkv_proj", "Wi_qkv")
_DOWN = ("down_proj", "fc2", "ffn.lin2", "wo", "mlp.Wo", "mlp.c_proj", "output.dense", "dense_4h_to_h", "fc_out")


def keys_and_values(model: nn.Module) -> list[str]:
    """Linear layers that make keys and values; where one layer makes the queries too, that one."""
    names = linear_names(model)
    return _ending(names, _KEYS_VALUES) or _ending(names, _FUSED)


def down_projections(model: nn.Module) -> list[str]:
    """Second linear layers of the feed-forward parts: their input is what the activation function gives."""
    return [name for name in _ending(linear_names(model), _DOWN) if not name.endswith("attention.output.dense")]


def matching(model: nn.Module, wanted: list[str] | None, default: list[str]) -> list[str]:
    """Linear layers of the stacks whose names end in one of ``wanted``; None: the default."""
    return default if wanted is None else _ending(linear_names(model), tuple(wanted))


def lora_targets(model: nn.Module, wanted: str | list[str]) -> list[str]:
    """What low-rank methods attach to: ``all-linear``, or linear layers by the end of their names.

    Raises ConfigError if there is none.
    """
    every = linear_names(model)
    names = every if isinstance(wanted, str) else _ending(every, tuple(wanted))
    if not names:
        known = sorted({name.rsplit(".", 1)[-1] for name in every})
        raise ConfigError(f"no layer matches {wanted}", f"known: {', '.join(known)}", "method.targets")
    return short_targets(model, names)


def _ending(names: list[str], endings: tuple[str, ...]) -> list[str]:
    return [name for name in names if f".{name}".endswith(tuple(f".{ending}" for ending in endings))]


# ------------------------------------------------------------------------------- inside the residual


@dataclass(frozen=True, slots=True)
class _Layer:
    """Paths inside a layer. A sub-layer *writes* through the last module whose output goes into the residual sum
    (dropout and post-norms included, where they are modules), and *reads* through the module that gets its input.
    """

    attention: str
    reads: str
    writes: str
    cross: str = ""


_BERT = _Layer("attention.output.dropout", "intermediate", "output.dropout", "crossattention.output.dropout")
_LLAMA = _Layer("self_attn.o_proj", "mlp", "mlp")
_GEMMA = _Layer("post_attention_layernorm", "mlp", "post_feedforward_layernorm")  # norms after the sub-layers
_PHI = _Layer("resid_attn_dropout", "mlp", "resid_mlp_dropout")
_T5 = _Layer("layer.0.dropout", "layer.-1.DenseReluDense", "layer.-1.dropout", "layer.1.EncDecAttention.o")
_BART = _Layer("self_attn.out_proj", "fc1", "fc2", "encoder_attn.out_proj")  # their dropout is not a module
_LAYERS = {
    **dict.fromkeys(("BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer", "DebertaV2Layer"), _BERT),
    "TransformerBlock": _Layer("attention.out_lin", "ffn", "ffn"),  # DistilBERT
    "ModernBertEncoderLayer": _Layer("attn.out_drop", "mlp", "mlp"),
    "GPT2Block": _Layer("attn.resid_dropout", "mlp", "mlp", "crossattention.resid_dropout"),
    "GPTNeoXLayer": _Layer("post_attention_dropout", "mlp", "post_mlp_dropout"),
    "BloomBlock": _Layer("self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "OPTDecoderLayer": _Layer("self_attn.out_proj", "fc1", "fc2"),
    **{f"{name}DecoderLayer": _LLAMA for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "SmolLM3")},
    **dict.fromkeys(("Gemma2DecoderLayer", "Gemma3DecoderLayer"), _GEMMA),
    "Phi3DecoderLayer": _PHI,
    **dict.fromkeys(("T5Block", "MT5Block"), _T5),
    **{f"{name}{part}Layer": _BART for name in ("Bart", "MBart", "Marian") for part in ("Encoder", "Decoder")},
}
"""By class of transformers. An unknown layer is not guessed at: OLMo 2 has Llama's names and another order of norms."""


def sublayers(layer: nn.Module) -> dict[str, tuple[nn.Module, nn.Module]] | None:
    """The sub-layers ``attention``, ``cross_attention`` (if there is one) and ``feed_forward`` of a transformer
    layer → the modules they read and write through (attention: what it writes through, twice).

    None if the architecture is not known.
    """
    known = _LAYERS.get(type(layer).__name__)
    if known is None or not type(layer).__module__.startswith("transformers."):
        return None
    paths = {
        "attention": (known.attention, known.attention),
        "cross_attention": (known.cross, known.cross),
        "feed_forward": (known.reads, known.writes),
    }
    found = {}
    for name, (reads, writes) in paths.items():
        ends = _at(layer, reads), _at(layer, writes)
        if ends[0] is not None and ends[1] is not None:
            found[name] = (ends[0], ends[1])
    return found if {"attention", "feed_forward"} <= set(found) else None


def _at(layer: nn.Module, path: str) -> nn.Module | None:
    """The module at a path, whose numbers may count from the end; None if there is none."""
    module: Any = layer if path else None
    for part in path.split("."):
        module = module[int(part)] if isinstance(module, nn.ModuleList) else getattr(module, part, None)
    return module if isinstance(module, nn.Module) else None
