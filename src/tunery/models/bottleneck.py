"""Bottleneck adapters inside the residual connections, several of them over one base.

After a sub-layer (Houlsby et al. 2019, Pfeiffer et al. 2020):  h + s (U f(D h + d) + u)
Beside the feed-forward (He et al. 2022), which reads x:        h + s (U f(D x + d) + u)

h is what the sub-layer is about to add to the residual stream, with its dropout and its post-norm (Gemma 2 and 3)
behind it; x is what the feed-forward itself reads, after the pre-norm where there is one. U and u start at zero, so
the model starts as the base. Parameters live in the layers (``…layers.0.adapters.attention.0.down.weight``, the number
being that of the adapter); hooks add their output, so that the names and kinds of the base's modules stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunery.errors import ConfigError, ModelError, near
from tunery.models import sites, weights
from tunery.models.bottleneck_layers import Bottleneck, Place, Plan, Settings
from tunery.models.named_heads import NamedHeads, parameters

WEIGHTS, SETTINGS = "bottleneck.safetensors", "bottleneck.json"
_SLOT = "_tunery_bottleneck"


@dataclass(slots=True)
class _Adapters:
    """What hangs on a model, outside of torch's module registry."""

    plan: Plan = field(default_factory=Plan)
    settings: dict[str, Settings] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)
    heads: NamedHeads = field(default_factory=NamedHeads)


def _of(model: nn.Module) -> _Adapters:
    """Empty, and not on the model yet, if it has none."""
    return vars(model).get(_SLOT) or _Adapters()


def names(model: nn.Module) -> list[str]:
    """The adapters over this model, in the order in which they came."""
    return list(_of(model).numbers)


def refusal(model: nn.Module) -> str | None:
    """Why no adapter can be placed in this model, or None."""
    for _, layers in sites.stacks(model):
        for layer in layers:
            if sites.sublayers(layer) is None:
                return f"it is not known where {type(layer).__name__} adds its residuals; use method=lora"
    return None


# ---------------------------------------------------------------------------------------- add and delete


def add(model: nn.Module, settings: Settings, head: tuple[str, ...], name: str) -> None:
    """A new adapter to train, alone active: it and a copy of the base's head learn, all else is frozen."""
    places = list(_places(model, settings, name))
    made = [Bottleneck(_hidden(model), settings) for _ in places]
    weights.freeze(model)
    _install(model, places, made, settings, name)
    _of(model).heads.add(model, head, name, None)
    activate(model, name)
    weights.train_modules(model, head)


def _hidden(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)


_Site = tuple[str, nn.Module, str, tuple[nn.Module, nn.Module]]


def _places(model: nn.Module, settings: Settings, name: str) -> Iterator[_Site]:
    """→ path of the layer, layer, name of the sub-layer, what it reads and writes through.

    Raises ModelError if the model or the name cannot be used, ConfigError for a layer that is not there.
    """
    if reason := refusal(model):
        problem, _, hint = reason.partition("; ")
        raise ModelError(problem, hint)
    if not name or name in names(model):
        raise ModelError(f"an adapter cannot be named {name!r}", f"taken: {', '.join(names(model))}")
    for stack, layers in sites.stacks(model):
        count = len(layers)
        wanted = range(count) if settings.layers is None else settings.layers
        if wrong := [i for i in wanted if not -count <= i < count]:
            raise ConfigError(f"there is no layer {wrong[0]}", f"{stack} has layers 0 to {count - 1}", "method.layers")
        for i in sorted({i % count for i in wanted}):
            for sublayer, ends in (sites.sublayers(layers[i]) or {}).items():
                if settings.placement == "houlsby" or sublayer == "feed_forward":
                    yield f"{stack}.{i}", layers[i], sublayer, ends


def _install(
    model: nn.Module, places: Sequence[_Site], made: Sequence[Bottleneck], settings: Settings, name: str
) -> None:
    adapters = vars(model).setdefault(_SLOT, _of(model))
    number = str(max((int(n) for n in adapters.numbers.values()), default=-1) + 1)
    for (_, layer, sublayer, ends), adapter in zip(places, made, strict=True):
        like = next(p for p in layer.parameters() if p.is_floating_point())  # not quantised
        if not hasattr(layer, "adapters"):
            layer.add_module("adapters", nn.ModuleDict())
        here: Any = layer.adapters
        if sublayer not in here:
            here[sublayer] = Place(adapters.plan, *ends)
        here[sublayer][number] = adapter.to(like.device, like.dtype).train(layer.training)
    adapters.settings[name], adapters.numbers[name] = settings, number


def _installed(model: nn.Module, number: str) -> Iterator[tuple[str, nn.Module, str, Place]]:
    """Where an adapter is → path of the layer, layer, name of the sub-layer, place."""
    for stack, layers in sites.stacks(model):
        for i, layer in enumerate(layers):
            here: Any = getattr(layer, "adapters", {})
            for sublayer, place in list(here.items()):
                if number in place:
                    yield f"{stack}.{i}", layer, sublayer, place


def delete(model: nn.Module, name: str) -> None:
    """Remove an adapter; if it acts, alone or with others, the model is the base afterwards. After the last one, no
    trace is left.
    """
    number, adapters = _number(model, name), _of(model)
    if any(number == part for part, _ in adapters.plan.parts):
        activate(model, None)
    for _, layer, sublayer, place in _installed(model, number):
        here: Any = layer.adapters
        del place[number]
        if not place:
            for hook in place.hooks:
                hook.remove()
            del here[sublayer]
        if not here:
            del layer.adapters
    adapters.heads.delete(name)
    del adapters.settings[name], adapters.numbers[name]
    if not adapters.numbers:
        del vars(model)[_SLOT]


# ------------------------------------------------------------------------------------ choose and combine


def _number(model: nn.Module, name: str) -> str:
    known = names(model)
    if name not in known:
        raise ModelError(f"there is no adapter {name!r}", near(name, known) if known else "load one first")
    return _of(model).numbers[name]


def activate(model: nn.Module, name: str | None) -> None:
    """One adapter with its head, or with None the bare base with its own. Raises ModelError for an unknown name."""
    if name is not None:
        stack(model, [name])
    else:
        _of(model).plan.parts = ()
        _of(model).heads.show(model, None)


def stack(model: nn.Module, chosen: Sequence[str]) -> None:
    """Several adapters one after the other, each reading what the ones before it made of h (parallel ones read x as
    ever, so a stack of them is their sum), with the head of the last.
    """
    parts = tuple((_number(model, name), 1.0) for name in chosen)
    if not parts:
        raise ModelError("a stack of no adapters", "activate None for the bare base")
    adapters = _of(model)
    adapters.plan.parts, adapters.plan.stacked = parts, True
    adapters.heads.show(model, chosen[-1])


def average(model: nn.Module, chosen: Sequence[str], shares: Sequence[float] | None = None) -> None:
    """The weighted mean of the adapters' *outputs* at each place, all of them reading the same h or x; an adapter
    that has none there counts as zero. The head is the mean of their heads' *weights*, which for a linear one is the
    same as the mean of its outputs.

    Args:
        shares: one weight an adapter, brought to sum 1; None: equal ones.
    """
    given = [1.0] * len(chosen) if shares is None else list(shares)
    if len(given) != len(chosen) or sum(given) <= 0:
        raise ModelError("an average needs one weight an adapter, of a sum above 0", "give none for a plain mean")
    given = [share / sum(given) for share in given]
    parts = tuple((_number(model, name), share) for name, share in zip(chosen, given, strict=True))
    adapters = _of(model)
    mean = adapters.heads.mean(model, chosen, given)
    adapters.plan.parts, adapters.plan.stacked = parts, False
    adapters.heads.show_mean(model, mean)


# ----------------------------------------------------------------------------------------- save and load


def save(model: nn.Module, folder: Path, name: str | None = None) -> None:
    """One adapter and its head, under the names that their parameters have in the model less the number.

    ``name`` may be left out while one adapter acts alone.
    """
    adapters = _of(model)
    if name is None:
        acting = [n for n, number in adapters.numbers.items() if number in dict(adapters.plan.parts)]
        if len(acting) != 1:
            raise ModelError(f"{len(acting)} adapters are active", "name the one to save")
        name = acting[0]
    number = _number(model, name)
    tensors = adapters.heads.of(model, name)
    for path, _, sublayer, place in _installed(model, number):
        own = place[number].named_parameters()
        tensors |= {f"{path}.adapters.{sublayer}.{key}": parameter.data for key, parameter in own}
    weights.save(tensors, folder / WEIGHTS)
    text = json.dumps({"schema_version": 1, **adapters.settings[name].model_dump()}, indent=2, sort_keys=True)
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def load(model: nn.Module, folder: Path, head: tuple[str, ...], name: str) -> None:
    """Add what ``save`` wrote, to compute with and not to train. The first adapter of a model becomes the active one.

    Raises ModelError if it is missing, damaged or of another base; the model is then as it was.
    """
    settings = _read_settings(folder / SETTINGS)
    tensors = weights.read(folder / WEIGHTS)
    places = list(_places(model, settings, name))
    made = []
    for path, _, sublayer, _ in places:
        with torch.device("meta"):  # draws no random numbers
            adapter = Bottleneck(_hidden(model), settings)
        start = f"{path}.adapters.{sublayer}."
        own = {key[len(start) :]: tensors.pop(key) for key in list(tensors) if key.startswith(start)}
        if {k: t.shape for k, t in own.items()} != {k: p.shape for k, p in adapter.named_parameters()}:
            raise _foreign(folder)
        adapter.load_state_dict(own, assign=True)
        made.append(adapter.requires_grad_(False))
    base = parameters(model, head)
    if set(tensors) != set(base) or any(tensors[k].shape[1:] != p.shape[1:] for k, p in base.items()):
        raise _foreign(folder)
    first = not names(model)
    if first:
        weights.freeze(model)
    _install(model, places, made, settings, name)
    _of(model).heads.add(model, head, name, tensors)
    if first:
        activate(model, name)


def _foreign(folder: Path) -> ModelError:
    return ModelError("this adapter has other weights than the model has places", "is it of this base?", str(folder))


def _read_settings(path: Path) -> Settings:
    hint = "restore the run or train it again"
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        version = values.pop("schema_version")
        if version == 1:
            return Settings.model_validate(values)
    except FileNotFoundError:
        raise ModelError("the adapter's settings are missing", hint, str(path)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"damaged settings: {error}", hint, str(path)) from None
    raise ModelError(f"this adapter has format {version}, not 1", "update tunery", str(path))
