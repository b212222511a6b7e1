"""What a metric must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tunery.protocols.plugin import Plugin
from tunery.protocols.records import Scored


@dataclass(frozen=True, slots=True)
class Number:
    """One number that a metric reports."""

    name: str
    summary: str
    higher_is_better: bool = True
    mean_of_rows: bool = False
    """Whether it is the mean of what ``compute`` gives for each row alone, less the rows for which it gives nothing."""


class Metric(Plugin):
    """A pure function of predictions and references → numbers with fixed names."""

    numbers: ClassVar[tuple[Number, ...]]
    kind: ClassVar[Literal["classes", "multilabel", "numbers", "text", "tags", "loss"]]
    """Which predictions it can read."""

    def compute(self, scored: Scored) -> dict[str, float]:
        raise NotImplementedError
