"""How much memory a training will need, before anything is loaded, and what to change where it is too much.

Only a rough guess, to keep the machine alive: what is tried is measured. Activations of a layer that gradients need
take some 34 bytes a token and hidden unit in 16 bits (Korthikanti et al. 2022, arXiv:2205.05198, without the attention
scores, which the kernels used here do not keep for long rows), twice that in 32 bits; with gradient checkpointing a
layer keeps its input alone. A position with a target takes its logits in 16 and 32 bits and their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PROCESS = 600_000_000
"""Bytes of a process with torch, transformers and peft, before it has a model."""
ACTIVATIONS = 17
"""Numbers a token, hidden unit and layer that gradients need."""
LOGITS = 12
"""Bytes a logit: in 16 and 32 bits, and gradients of both."""
TRAINING = 14
"""Bytes a trained parameter beside itself: fp32 master, two moments, gradients."""
QUANTISED = {"nf4": 0.55, "fp4": 0.55, "int8": 1.05}
"""Bytes a weight."""
FITS = 0.9
"""Share of the free memory that a training may take."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the memory of a training depends on."""

    parameters: int
    trained: int
    """Parameters that the method trains, about."""
    layers: int
    hidden: int
    vocabulary: int
    """Classes of each target: of a language model the vocabulary."""
    tokens: int
    """Padded tokens of the largest forward pass."""
    targets: int
    longest: int
    """Tokens of the longest row: no pass can be smaller."""
    bytes: int
    """Of a weight: 2 or 4."""
    quantise: str | None = None
    checkpointing: bool = False

    @property
    def estimate(self) -> int:
        """Bytes at the peak."""
        weights = self.parameters * (QUANTISED[self.quantise] if self.quantise else self.bytes)
        layer = self.tokens * self.hidden * ACTIVATIONS * self.bytes
        inputs = self.layers * self.tokens * self.hidden * self.bytes
        kept = inputs + layer if self.checkpointing else self.layers * layer
        logits = self.targets * self.vocabulary * LOGITS
        return int(PROCESS + weights + self.trained * TRAINING + kept + logits)


def changes(needs: Needs, free: int, method: str) -> list[str]:
    """Settings under which it would fit, as few as do, the cheapest in time first; what is left to do if none help."""
    found: list[str] = []

    def enough() -> bool:
        return needs.estimate <= FITS * free

    if method in ("full", "freeze") and not enough():
        found.append("method=lora")
        needs = replace(needs, trained=needs.parameters // 50)
    if not enough() and (smallest := _smaller(needs, free)) < needs.tokens:
        found.append(f"train.micro_tokens={smallest}")
        needs = replace(needs, targets=needs.targets * smallest // needs.tokens, tokens=smallest)
    if not enough() and not needs.checkpointing:
        found.append("train.gradient_checkpointing=true")
        needs = replace(needs, checkpointing=True)
    if not enough() and needs.quantise is None:
        found.append("model.quantise=nf4")
        needs = replace(needs, quantise="nf4")
    if not enough():
        found.append("a smaller model.name, or a smaller data.max_length")
    return found


def _smaller(needs: Needs, free: int) -> int:
    """The largest halving of the pass that fits, or the smallest there is: one row alone."""
    tokens = needs.tokens
    while tokens // 2 >= needs.longest:
        tokens //= 2
        if replace(needs, tokens=tokens, targets=needs.targets * tokens // needs.tokens).estimate <= FITS * free:
            break
    return tokens
