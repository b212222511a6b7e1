"""tunery: fine-tune any language model on your own data, with every method, and know that it worked.

>>> import tunery
>>> run = tunery.train("reviews.csv", model="minilm", task="classify", method="lora")  # doctest: +SKIP
>>> run.evaluate("new.csv")["metrics"]["accuracy"]  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunery.errors import TuneryError

if TYPE_CHECKING:
    from tunery.run.run import Run, load, train

__all__ = ["Run", "TuneryError", "load", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The API is lazy: ``import tunery`` loads no torch."""
    if name in ("Run", "load", "train"):
        from tunery.run import run

        return getattr(run, name)
    raise AttributeError(f"module 'tunery' has no attribute {name!r}")
