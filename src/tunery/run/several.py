"""Finished runs side by side: each base once in memory, plain LoRA runs over one base in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from tunery.models import shared_lora
from tunery.models.load import Base
from tunery.models.several import Bases, SharedBase
from tunery.models.shared_lora import Part, SharedLora
from tunery.run import build
from tunery.run.run import Run


class Group:
    """A model that answers for one run, or for all plain LoRA runs over one base, each row with its own adapter."""

    def __init__(self, model: nn.Module, lora: SharedLora | None, base: Base) -> None:
        self.model, self.lora, self.base = model, lora, base

    @property
    def arrange(self) -> Callable[[Sequence[str | None]], None] | None:
        """To be told the adapter of each row before the model computes them."""
        return None if self.lora is None else self.lora.arrange


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """Where a run's text comes from."""

    group: Group
    adapter: str | None = None
    """Its name there, which no other run ever has."""
    parts: dict[str, Part] | None = None

    def enter(self) -> None:
        """Put the run's adapter into the group, in the thread that computes with it."""
        if self.group.lora is not None and self.adapter is not None and self.parts is not None:
            self.group.lora.add(self.adapter, self.parts)


class Several:
    """Loads runs. Each has a module tree of its own, whatever its method: see ``models/several.py``."""

    def __init__(self) -> None:
        self._bases = Bases()
        self._groups: WeakValueDictionary[Any, Group] = WeakValueDictionary()
        self._numbers = count(1)

    def load(self, run: Run) -> Place | None:
        """Load a run's model into ``run.tuned`` → where its text comes from, None if it writes none.

        Raises ModelError.
        """
        tuned = run.tuned = build.load(run.dir, self._bases.share)
        if tuned.task.output != "text":
            return None
        adapter = self._plain(tuned)
        if adapter is None:
            return Place(Group(tuned.model, None, tuned.base))
        base: Any = tuned.base
        key = (id(base.weights), type(tuned.model))
        group = self._groups.get(key)
        if group is None:
            model, _ = build.with_head(base, tuned.task, run.config)
            group = self._groups[key] = Group(model.requires_grad_(False), SharedLora(model), base)
        return Place(group, f"{run.path.name}#{next(self._numbers)}", adapter)

    def _plain(self, tuned: build.Tuned) -> dict[str, Part] | None:
        """The adapter of a run that may share a batch."""
        if tuned.head or tuned.base.family != "decoder" or not isinstance(tuned.base, SharedBase):
            return None
        return shared_lora.parts(tuned.model)
