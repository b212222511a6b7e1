"""AdaLoRA's budget of ranks (Zhang et al. 2023, arXiv:2303.10512): which triplets (row of A, entry of E, column
of B) of all layers together may stay.

A weight's sensitivity is |w dL/dw|; smoothed, and multiplied by its smoothed uncertainty, it is the weight's
importance, and a triplet's is that of its entry of E plus the means over its row and its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("lora_A", "lora_B", "lora_E")


@dataclass(frozen=True, slots=True)
class Schedule:
    """All ranks until step ``first``, from step ``last`` on as many as they shall be; in between a cubic decrease."""

    first: int
    last: int
    every: int

    def ranks(self, step: int, begin: int, end: int) -> int:
        if step <= self.first:
            return begin
        share = max(1 - (step - self.first) / (self.last - self.first), 0.0)
        return int(end + (begin - end) * share**3)

    def due(self, step: int) -> bool:
        return step == self.last or (self.first < step < self.last and step % self.every == 0)


class RankBudget:
    """Keeps the importance of every weight of an AdaLoRA model, and takes ranks away.

    Args:
        target: average rank of a layer at the end.
        betas: smoothing of sensitivity and uncertainty.
        orthogonal: weight of the penalty on A A' - 1 and B' B - 1.
    """

    def __init__(
        self, model: nn.Module, schedule: Schedule, target: int, betas: tuple[float, float], orthogonal: float
    ) -> None:
        own = {name: p for name, p in model.named_parameters() if _part(name) in PARTS}
        self._parameters: dict[str, nn.Parameter] = own
        self._schedule, self._betas, self._orthogonal = schedule, betas, orthogonal
        self._layers = sorted({name.replace(".lora_A.", ".%s.") for name in own if _part(name) == "lora_A"})
        self._begin = sum(len(own[layer % "lora_A"]) for layer in self._layers)
        self._end = target * len(self._layers)
        zeros = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in own.items()}
        self._sensitivity = zeros
        self._uncertainty = {name: zero.clone() for name, zero in zeros.items()}
        self._kept = {layer: torch.ones_like(own[layer % "lora_E"], dtype=torch.bool) for layer in self._layers}

    @torch.no_grad()
    def before_step(self, step: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add the penalty's gradient, and note how sensitive the loss is to each weight."""
        for name in self._parameters:
            if name not in weights:
                continue
            weight, grad = weights[name]
            if self._orthogonal and _part(name) != "lora_E":
                grad += self._orthogonal / (2 * len(self._layers)) * _penalty_gradient(weight, _part(name) == "lora_A")
            if step <= self._schedule.last:
                self._note(name, (weight * grad).abs())

    def _note(self, name: str, now: Tensor) -> None:
        mean, spread = self._sensitivity[name], self._uncertainty[name]
        mean.lerp_(now, 1 - self._betas[0])
        spread.lerp_((now - mean).abs(), 1 - self._betas[1])

    @torch.no_grad()
    def after_step(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Share out this step's budget; entries of E without a share are zero in the model and in its fp32 copy.

        They may come back while the budget still shrinks, not afterwards.
        """
        if self._schedule.due(step):
            self._allocate(self._schedule.ranks(step, self._begin, self._end))
        elif step < self._schedule.last:
            return
        for layer, kept in self._kept.items():
            name = layer % "lora_E"
            for each in (self._parameters[name], weights[name]):
                each.masked_fill_(~kept, 0.0)

    def _allocate(self, ranks: int) -> None:
        scores = {layer: self._scores(layer) for layer in self._layers}
        order = torch.cat(list(scores.values())).argsort(descending=True, stable=True)
        chosen = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        chosen[order[:ranks]] = True
        parts = torch.split(chosen, [len(score) for score in scores.values()])
        self._kept = {layer: part.unsqueeze(1) for layer, part in zip(scores, parts, strict=True)}

    def _scores(self, layer: str) -> Tensor:
        """[rank]"""
        a, b, e = (self._sensitivity[layer % part] * self._uncertainty[layer % part] for part in PARTS)
        return e.view(-1) + a.mean(1) + b.mean(0)

    def state(self) -> dict[str, Tensor]:
        found = {f"sensitivity/{name}": t for name, t in self._sensitivity.items()}
        found |= {f"uncertainty/{name}": t for name, t in self._uncertainty.items()}
        return found | {f"kept/{name}": t.to(torch.uint8) for name, t in self._kept.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        for kind, own in (("sensitivity", self._sensitivity), ("uncertainty", self._uncertainty)):
            for name, tensor in own.items():
                tensor.copy_(state[f"{kind}/{name}"])
        self._kept = {name: state[f"kept/{name}"].to(t.device, torch.bool) for name, t in self._kept.items()}


def _part(name: str) -> str:
    return next((part for part in PARTS if f".{part}." in name), "")


def _penalty_gradient(weight: Tensor, rows: bool) -> Tensor:
    """Gradient of the Frobenius norm of M M' - 1, where M is the weight or its transpose."""
    matrix = weight if rows else weight.t()
    gap = matrix @ matrix.t()
    gap.diagonal().sub_(1)
    gradient: Tensor = 2 * gap @ matrix / gap.norm().clamp(min=1e-12)
    return gradient if rows else gradient.t()


# --------------------------------------------------------------------------------------------- on disk


def _adalora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.adalora.layer import AdaLoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, AdaLoraLayer)]


def pattern(model: nn.Module, name: str = "default") -> dict[str, list[bool]]:
    """What peft saves by: for each layer, which ranks are left."""
    return {
        f"{layer}.lora_E.{name}": [bool(entry) for entry in module.lora_E[name].detach().ne(0).view(-1)]
        for layer, module in _adalora_layers(model)
    }


@torch.no_grad()
def widen(model: nn.Module, name: str, ranks: Mapping[str, list[bool]] | None) -> None:
    """Give back the ranks that were not saved, as zeros: a product of the same shape rounds as it did in training."""
    if not ranks:
        return
    for layer, module in _adalora_layers(model):
        kept = torch.tensor(ranks[f"{layer}.lora_E"])
        for part in PARTS:
            small = getattr(module, part)[name]
            rows, columns = small.shape
            wide = small.new_zeros((rows, len(kept)) if part == "lora_B" else (len(kept), columns))
            if part == "lora_B":
                wide[:, kept] = small
            else:
                wide[kept] = small
            getattr(module, part)[name] = nn.Parameter(wide, requires_grad=small.requires_grad)
        module.r[name] = len(kept)
