"""Small sets of weights that take the place of the base's own, several by name, and the base's back again.

For methods that train a few of the base's parameters. The values that are not in place hang on the model,
outside of torch's module registry: they are no part of its state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from tunery.errors import ModelError
from tunery.models import weights

_SLOT = "_tunery_swap"


@dataclass(slots=True)
class _Sets:
    active: str | None = None
    base: dict[str, Tensor] = field(default_factory=dict)
    """The base's own values of every parameter that any set replaces."""
    tuned: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def remember(model: nn.Module, names: Mapping[str, object], active: str = "default") -> None:
    """Keep the values that the named parameters have now as the base's; what they become is the set ``active``."""
    own = dict(model.named_parameters())
    base = {name: own[name].detach().clone() for name in names}
    sets = _Sets(active, base, {active: dict(base)})  # read anew when it is put aside
    object.__setattr__(model, _SLOT, sets)


def load(model: nn.Module, tensors: Mapping[str, Tensor], where: Path, name: str) -> None:
    """Add a set and put it in place. Raises ModelError if it does not fit the model."""
    sets: _Sets | None = vars(model).get(_SLOT)
    if sets is None:
        sets = _Sets()
        object.__setattr__(model, _SLOT, sets)
    activate(model, None)
    own = dict(model.named_parameters())
    before = {key: own[key].detach().clone() for key in tensors if key in own}
    weights.load_into(model, tensors, where)
    sets.base |= {key: value for key, value in before.items() if key not in sets.base}
    sets.tuned[name] = {key: own[key].detach().clone() for key in tensors}
    sets.active = name


def activate(model: nn.Module, name: str | None) -> None:
    """Put a set in place, or the base's own values (None). Raises ModelError if there is no such set."""
    sets: _Sets = vars(model)[_SLOT]
    if name is not None and name not in sets.tuned:
        raise ModelError(f"no adapter {name!r} is loaded", f"loaded: {', '.join(sets.tuned)}")
    own = dict(model.named_parameters())
    if sets.active is not None:
        sets.tuned[sets.active] = {key: own[key].detach().clone() for key in sets.tuned[sets.active]}
    for key, value in {**sets.base, **(sets.tuned[name] if name else {})}.items():
        weights.put(own[key], value)
    sets.active = name


def forget(model: nn.Module) -> None:
    """What is in place stays."""
    vars(model).pop(_SLOT, None)
