"""What a kind of export must offer, and what it gets to work with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from tunery.config import Config
from tunery.models.load import KINDS, Base
from tunery.protocols import Method, Task
from tunery.run import build
from tunery.run.run import Run

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
"""Plain dtypes by their short names; a kind may have others (``int8``, ``q8_0``)."""


class Subject:
    """The run that is exported. Its model is loaded anew each time, so that no two steps share one."""

    def __init__(self, run: Run) -> None:
        """Raises ModelError as ``build.load`` does."""
        self.run = run
        self._first: build.Tuned | None = build.load(run.dir)
        self.base: Base = self._first.base
        self.task: Task = self._first.task
        self.method: Method = self._first.method
        self.head = self._first.head
        self.loader = _loader(self._first.model)
        """The class of transformers that loads this kind of model, or None (a pooled classifier is a class of ours)."""
        self.model_type = type(self._first.model).__name__
        settings = getattr(self._first.model, "config", None)
        self.outputs: dict[int, str] | None = getattr(settings, "id2label", None)
        """Names of the classes, for a head that has some."""

    def load(self) -> build.Tuned:
        """The tuned model, to do with as one likes."""
        first, self._first = self._first, None
        return first or build.load(self.run.dir)

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.run.manifest

    @property
    def dtype(self) -> str:
        """Short name of the dtype it was trained in."""
        return next((name for name, dtype in DTYPES.items() if dtype == self.base.dtype), "f32")

    @property
    def settings(self) -> dict[str, Any]:
        """What a program must know beside weights and tokenizer; empty where that is nothing."""
        found: dict[str, Any] = {}
        if self.task.name == "regress":  # trained on scaled targets
            found |= self.task.state()
        if self.config.data.clean:
            found["clean"] = [step.model_dump(mode="json") for step in self.config.data.clean]
        return found

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.path.resolve().name


SCALED: dict[str, tuple[str, ...]] = {
    "regress": (
        "",
        "import json",
        "",
        'settings = json.load(open("this folder/settings.json"))  # targets were scaled for training',
        'inputs = tokenizer(["a text"], return_tensors="pt", padding=True)',
        'number = model(**inputs).logits[:, 0] * settings["deviation"] + settings["mean"]',
    )
}
"""Lines of a card by task, where the model's numbers are not yet the answer."""


class Kind:
    """One form of export. ``name`` is its file's name."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    consumer: ClassVar[str] = "transformers"
    """What loads it for the parity gate: a file in ``consumers/``."""
    dtypes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    """That may be asked for with ``--dtype``."""

    def require(self) -> None:
        """Raises ModelError, which names the extra, if a package is missing that this kind or its consumer needs."""

    def require_consumer(self) -> None:
        """Raises ModelError, which names the extra, if only what proves the export is missing (``--unverified``)."""

    def refuses(self, subject: Subject) -> str | None:
        """Why this run cannot be exported so, with the way out ("problem; hint"), or None."""
        return None

    def dtype(self, subject: Subject) -> str:
        """What the weights are stored in where nothing is said."""
        return subject.dtype

    def precision(self, subject: Subject, dtype: str) -> str:
        """The row of ``parity.BOUNDS`` that counts: ``f32`` where nothing is rounded that was not in training."""
        return dtype

    def build(self, subject: Subject, folder: Path, dtype: str) -> None:
        """Write everything but the model card, ``parity.json`` and ``SHA256SUMS`` into an empty folder."""
        raise NotImplementedError

    def job(self, subject: Subject, folder: Path, dtype: str) -> dict[str, Any]:
        """What the consumer needs beside the folder to load it."""
        return {"loader": subject.loader}

    def use(self, subject: Subject, target: Path) -> str:
        """Markdown: how to use it. ``target``: the folder where it will lie."""
        raise NotImplementedError


def _loader(model: Any) -> str | None:
    import transformers

    for name in KINDS.values():
        mapping = getattr(transformers, name)._model_mapping
        if type(getattr(model, "config", None)) in mapping and mapping[type(model.config)] is type(model):
            return name
    return None
