"""Which weights of a loaded model are new, and the knobs of a config that go by many names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunery.errors import ModelError
from tunery.models import folder as folders


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout rate an architecture has, whatever it calls them; rates it leaves open stay so."""
    for key, value in config.to_dict().items():
        named = "dropout" in key or key.endswith("_pdrop")
        if named and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, key, rate)


def renaming(head_class: Any, config: Any, folder: Path) -> dict[str, Any]:
    """Arguments that help where a class calls its backbone otherwise than the architecture does.

    transformers' question-answering classes of the Llama kind say ``transformer.`` where every checkpoint says
    ``model.``, and would start from random weights with no more than a warning.
    """
    from transformers import AutoModel

    if type(config) not in AutoModel._model_mapping:
        return {}
    wanted = head_class.base_model_prefix
    usual = AutoModel._model_mapping[type(config)].base_model_prefix
    names = [name for name, _, _ in folders.tensors(folder)]
    if wanted == usual or not any(name.startswith(f"{usual}.") for name in names):
        return {}
    if any(name.startswith(f"{wanted}.") for name in names):
        return {}
    return {"key_mapping": {rf"^{re.escape(usual)}\.": f"{wanted}."}}


def stored_head(head_class: Any, config: Any, folder: Path) -> bool:
    """Whether any weight that only the head has is in the files; true for a head without weights of its own.

    The model is built on the meta device, which costs no memory.
    """
    with torch.device("meta"):
        model = head_class.from_config(config)
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    own = {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) not in inside}
    return not own or any(name in own for name, _, _ in folders.tensors(folder))


def forget(model: Any, renamed: dict[str, str]) -> None:
    """Save under the class's own names: the renaming of ``renaming`` would be undone by ``save_pretrained``.

    Plain transformers, which loads without it, would then find none of the weights.
    """
    kept = [
        c for c in getattr(model, "_weight_conversions", None) or [] if renamed.keys().isdisjoint(c.source_patterns)
    ]
    if renamed:
        model._weight_conversions = kept


def new_names(model: nn.Module, report: Any) -> set[str]:
    """Parameters that the files do not have, or have in another shape (then with both shapes)."""
    odd = {item[0] if isinstance(item, tuple) else item for item in report.get("mismatched_keys", ())}
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return (set(report["missing_keys"]) | odd) & own


def check_backbone(model: Any, new: set[str], folder: Path) -> None:
    """A new head is normal, a new pooler too; a new layer means that the files are not this model's.

    Raises ModelError.
    """
    backbone = model.base_model
    output = model.get_output_embeddings()
    inside = {id(p) for p in backbone.parameters()}
    if backbone is model:  # T5 with a head for spans holds the stacks itself
        known = _bare_names(model.config)
        inside = {id(p) for name, p in model.named_parameters(remove_duplicate=False) if name in known}
    if output is not None:
        inside -= {id(p) for p in output.parameters()}
    bad = sorted(
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in new and id(parameter) in inside and "pooler" not in name.split(".")
    )
    if bad:
        raise ModelError(
            f"{len(bad)} weights of the model are not in its files, for example {bad[0]!r}",
            "config.json and weights do not belong together: get the model again",
            str(folder),
        )


def _bare_names(config: Any) -> set[str]:
    """Parameters of the architecture without any head."""
    from transformers import AutoModel

    with torch.device("meta"):
        return {name for name, _ in AutoModel.from_config(config).named_parameters(remove_duplicate=False)}


def highest(model: nn.Module, new: set[str]) -> tuple[str, ...]:
    """The fewest names that cover exactly the new parameters: whole modules where all of them are new."""
    own = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names: list[str] = []
    for parameter in (name for name in own if name in new):
        parts = parameter.split(".")
        prefixes = (".".join(parts[:end]) for end in range(1, len(parts)))
        top = next((p for p in prefixes if all(n in new for n in own if n.startswith(p + "."))), parameter)
        if top not in names:
            names.append(top)
    return tuple(names)
