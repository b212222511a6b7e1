"""tunery: fine-tune any language model on your own data, with every method, and know that it worked.

>>> import tunery
>>> run = tunery.train("reviews.csv", model="minilm", task="classify", method="lora")  # doctest: +SKIP
>>> run.evaluate("new.csv")["metrics"]["accuracy"]  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tunery.errors import TuneryError

if TYPE_CHECKING:
    from tunery.export.publish import export
    from tunery.run.api import cross_validate, train
    from tunery.run.run import Run, load

__all__ = ["Run", "TuneryError", "cross_validate", "export", "load", "train"]
__version__ = "0.1.0"


class _Package(ModuleType):
    """The API is lazy: ``import tunery`` loads no torch.

    ``tunery.train`` and ``tunery.export`` are the functions although there are packages of that name: importing
    anything below ``tunery.train`` sets the attribute to the package, which is why they are properties here.
    """

    @property
    def train(self) -> Any:
        from tunery.run.api import train

        return train

    @train.setter
    def train(self, package: ModuleType) -> None:
        """Leave the package to ``sys.modules``, where ``from tunery.train import …`` finds it."""

    @property
    def export(self) -> Any:
        from tunery.export.publish import export

        return export

    @export.setter
    def export(self, package: ModuleType) -> None:
        """As for ``train``."""

    def __getattr__(self, name: str) -> Any:
        if name == "cross_validate":
            from tunery.run.api import cross_validate

            return cross_validate
        if name in ("Run", "load"):
            from tunery.run import run

            return getattr(run, name)
        raise AttributeError(f"module 'tunery' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
