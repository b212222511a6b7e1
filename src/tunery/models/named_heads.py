"""One head for each of several adapters over one base: the tensors under the head's parameters are exchanged, the
parameters stay the optimizer's. None is the base's own head. Heads may differ in their number of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tunery.errors import ModelError

Tensors = dict[str, Tensor]


def parameters(model: nn.Module, modules: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named modules."""
    starts = tuple(f"{module}." for module in modules)
    return {name: p for name, p in model.named_parameters() if name.startswith(starts)}


class NamedHeads:
    """Head tensors by the adapter's name and by their name in the model."""

    def __init__(self) -> None:
        self._stored: dict[str | None, Tensors] = {None: {}}
        self._shown: str | None = None
        self._mixed = False
        """What is in the model is nobody's: an average."""

    def add(self, model: nn.Module, modules: Sequence[str], name: str, tensors: Mapping[str, Tensor] | None) -> None:
        """Keep ``tensors`` as the head of ``name``; None: a copy of the base's head. Shows nothing yet."""
        own = parameters(model, modules)
        for key, parameter in own.items():
            self._stored[None].setdefault(key, parameter.data)
        base = self.of(model, None)
        given = {key: base[key].clone() for key in own} if tensors is None else tensors
        self._stored[name] = {key: given[key].to(p.device, p.dtype) for key, p in own.items()}

    def of(self, model: nn.Module, name: str | None) -> Tensors:
        """The tensors as they are now."""
        own = {**self._stored[None], **self._stored[name]}
        if name == self._shown and not self._mixed:
            return {key: p.data for key, p in model.named_parameters() if key in own}
        return own

    def show(self, model: nn.Module, name: str | None) -> None:
        """Put the head of ``name`` into the model, and keep the one that was there."""
        if not self._mixed:
            self._stored[self._shown] = self.of(model, self._shown)
        self._set(model, {**self._stored[None], **self._stored[name]})
        self._shown, self._mixed = name, False

    def mean(self, model: nn.Module, names: Sequence[str], shares: Sequence[float]) -> Tensors:
        """Raises ModelError if the heads differ in shape."""
        heads = [self.of(model, name) for name in names]
        shapes = [{key: tensor.shape for key, tensor in head.items()} for head in heads]
        if any(shape != shapes[0] for shape in shapes):
            raise ModelError("the heads of these adapters have different labels", "use one at a time")
        return {
            key: sum((share * head[key] for share, head in zip(shares, heads, strict=True)), tensor.new_zeros(()))
            for key, tensor in heads[0].items()
        }

    def show_mean(self, model: nn.Module, mean: Tensors) -> None:
        self.show(model, None)
        self._set(model, mean)
        self._mixed = True

    def delete(self, name: str) -> None:
        """It must not be shown."""
        del self._stored[name]

    def _set(self, model: nn.Module, tensors: Mapping[str, Any]) -> None:
        for key, parameter in model.named_parameters():
            if key in tensors and parameter.data_ptr() != tensors[key].data_ptr():
                parameter.data = tensors[key].to(parameter)  # its device and dtype
                parameter.grad = None
