"""Which weights of a loaded model are new, and the knobs of a config that go by many names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tunery.errors import ModelError


def set_dropout(config: Any, rate: float) -> None:
    """Set every dropout rate an architecture has, whatever it calls them; rates it leaves open stay so."""
    for key, value in config.to_dict().items():
        named = "dropout" in key or key.endswith("_pdrop")
        if named and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, key, rate)


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
