"""Where methods attach: the layer stack, the embeddings and the output head of any architecture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from tunery.errors import ModelError


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
