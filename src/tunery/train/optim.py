"""AdamW with fp32 master copies, and the learning-rate schedules.

The model computes in bf16; sums of many small updates need fp32. So each bf16 parameter has an fp32 master:
gradients are added up there, the update happens there, and the rounded result goes back into the model.
fp32 parameters are their own masters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NO_DECAY = ("bias", "norm", "ln_", "layernorm", "layer_norm", "ia3_")
Before = Callable[[dict[str, tuple[Tensor, Tensor]]], None]


def lr_factor(schedule: str, step: int, total: int, warmup: int) -> float:
    """Share of the peak learning rate at optimizer step ``step`` (0-based) of ``total``.

    Linear warm-up over ``warmup`` steps, then constant, linear to 0 or half a cosine to 0.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(total - warmup, 1)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return max(1 - progress, 0.0)


def decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: biases, norms and other vectors (IA3's are columns) are left alone."""
    lowered = name.lower()
    return parameter.ndim > 1 and not any(part in lowered for part in NO_DECAY)


class Optimizer:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) over a method's parameter groups.

    Args:
        groups: as ``Method.groups`` gives them.
        lr: peak learning rate; each group's ``lr_scale`` multiplies it.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], lr: float, weight_decay: float) -> None:
        self.lr = lr
        self.names: list[str] = []
        self.parameters: list[nn.Parameter] = []
        self.masters: list[Tensor] = []
        self._scales: list[float] = []
        sections = []
        for group in groups:
            for decayed in (True, False):
                named = [(n, p) for n, p in group["named"] if decays(n, p) == decayed]
                if not named:
                    continue
                # The fused kernel pairs weights and moments in memory order; a checkpoint's moments are contiguous.
                assert all(p.is_contiguous() for _, p in named), "trained parameters must be contiguous"
                masters = [p if p.dtype == torch.float32 else p.detach().float() for _, p in named]
                self.names += [n for n, _ in named]
                self.parameters += [p for _, p in named]
                self.masters += masters
                self._scales.append(group["lr_scale"])
                sections.append({"params": masters, "weight_decay": weight_decay if decayed else 0.0})
        self._adam = torch.optim.AdamW(sections, lr=lr, fused=True)

    def collect(self) -> None:
        """Add the gradients of a forward pass to the masters'."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is master or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def add_up(self, over_processes: Callable[[Tensor], Tensor]) -> None:
        """Sum the collected gradients over all processes, once a step and in fp32.

        A parameter that no process used (the pooler of a mean-pooled encoder) keeps no gradient, as in one process.
        """
        used = torch.tensor([m.grad is not None for m in self.masters], dtype=torch.float32)
        users = over_processes(used.to(self.masters[0].device)).tolist()
        for master, count in zip(self.masters, users, strict=True):
            if count:
                master.grad = over_processes(torch.zeros_like(master) if master.grad is None else master.grad)

    def step(self, scale: float, clip: float, factor: float, before: Before | None = None) -> float:
        """Scale the collected gradients, clip them, update, and round back into the model.

        Args:
            scale: 1 / number of targets of the step.
            clip: largest gradient norm; 0: none.
            factor: share of the peak learning rate.
            before: sees masters and scaled gradients by parameter name, and may change the gradients in place.

        Returns:
            The gradient norm before clipping.
        """
        grads = [m.grad for m in self.masters if m.grad is not None]
        torch._foreach_mul_(grads, scale)
        if before is not None:
            pairs = zip(self.names, self.masters, strict=True)
            before({name: (m.detach(), m.grad) for name, m in pairs if m.grad is not None})
        norm = torch.nn.utils.get_total_norm(grads)
        if clip:
            torch._foreach_mul_(grads, torch.clamp(clip / (norm + 1e-6), max=1.0))
        for group, lr_scale in zip(self._adam.param_groups, self._scales, strict=True):
            group["lr"] = self.lr * lr_scale * factor
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.write_back()
        return float(norm)

    def weights(self) -> dict[str, Tensor]:
        """The fp32 masters by parameter name."""
        return {name: master.detach() for name, master in zip(self.names, self.masters, strict=True)}

    @torch.no_grad()
    def write_back(self) -> None:
        """Masters → model."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def state(self) -> dict[str, Tensor]:
        """Masters and moments, by ``kind/parameter name``."""
        found: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            found[f"master/{name}"] = master.detach()
            for key, value in self._adam.state.get(master, {}).items():
                found[f"{key}/{name}"] = value
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``; also writes the masters into the model."""
        with torch.no_grad():
            for name, master in zip(self.names, self.masters, strict=True):
                master.copy_(state[f"master/{name}"])
                kept = {
                    key: state[f"{key}/{name}"].clone()
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{key}/{name}" in state
                }
                if kept:
                    # ``step`` stays on the CPU unless the fused kernel runs on another device.
                    self._adam.state[master] = {
                        k: v.to(master.device) if k != "step" or master.device.type != "cpu" else v
                        for k, v in kept.items()
                    }
        self.write_back()
