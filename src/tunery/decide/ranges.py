"""Where good settings of each method are found, for a search that was given no ranges.

The learning rate is searched by its logarithm around the method's own default for the size of the model
(``Method.default_lr``), as far to both sides as published recipes and our own runs differ from each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tunery.config import Config
from tunery.decide.space import Choice, Range, Space


@dataclass(frozen=True, slots=True)
class Sensible:
    """Ranges for one method."""

    lr: float
    """The learning rate is searched from default / lr to default x lr."""
    epochs: tuple[int, int]
    """With 2,000 rows or more; few rows take more passes."""
    own: dict[str, list[Any]] = field(default_factory=dict)
    """Values for the method's own keys."""
    decoder_epochs: tuple[int, int] | None = None
    """For language models that write text, where they differ."""


SENSIBLE: dict[str, Sensible] = {
    # Devlin et al. 2019: 2e-5 to 5e-5, 2-4 epochs for encoders; 1-3 for language models.
    "full": Sensible(5, (2, 5), decoder_epochs=(1, 3)),
    # Lee et al. 2019: the last quarter of the layers keeps 90 % of the quality; a head alone wants 1e-3.
    "freeze": Sensible(10, (2, 6), {"layers": [1, 2, 4, 6]}, decoder_epochs=(1, 3)),
    # Hu et al. 2021 and the PEFT benchmark: r 8-64; small encoders 4e-4 to 1e-3, 7 B decoders 1e-4 to 2e-4.
    "lora": Sensible(5, (2, 5), {"r": [4, 8, 16, 32]}, decoder_epochs=(1, 4)),
    # Zhang et al. 2023: 5e-4 to 1e-3 on encoders, ranks 12 to 8 and larger.
    "adalora": Sensible(5, (3, 8), {"init_r": [12, 16, 24]}),
    # Houlsby et al. 2019: 3 to 20 epochs, 1e-4 to 3e-3, widths by reduction.
    "adapter": Sensible(10, (3, 12), {"reduction": [4, 8, 16, 32]}),
    # Ben Zaken et al. 2021: 1e-4 to 1e-3.
    "bitfit": Sensible(10, (3, 10)),
    # Liu et al. 2022: 1e-3 to 5e-3, above that for small models.
    "ia3": Sensible(5, (3, 10)),
    # Li & Liang 2021; P-tuning v2 (Liu et al. 2021): 10-200 vectors, long training.
    "prefix": Sensible(10, (3, 15), {"length": [10, 20, 50]}),
    # Lester et al. 2021: 8-100 tokens; 1e-2 to 3e-2 with AdamW.
    "prompt": Sensible(10, (5, 20), {"tokens": [8, 20, 50]}),
    # Liu et al. 2021: 5-20 tokens from an LSTM or MLP.
    "p_tuning": Sensible(10, (5, 20), {"tokens": [5, 10, 20]}),
}
OTHER = Sensible(10, (2, 6))
"""For a method that is not in the table."""
FEW, SOME = 300, 2000
"""Training rows: as ``tunery init``, which proposes 10 epochs below the first and 5 below the second."""


def sensible(config: Config, default_lr: float, rows: int, layers: int, family: str) -> tuple[Space, list[str]]:
    """→ ranges for the keys that the user left open, and a note on those that are fixed.

    Args:
        default_lr: the method's for this model.
        rows: training rows.
        layers: of the model; more cannot be trained.
        family: ``encoder``, ``decoder`` or ``encoder-decoder``.
    """
    table = SENSIBLE.get(config.method_name, OTHER)
    factor = 3 if rows < FEW else 2 if rows < SOME else 1
    low, high = table.epochs if family == "encoder" else table.decoder_epochs or table.epochs
    open_: Space = {
        "train.lr": Range(_short(default_lr / table.lr), _short(default_lr * table.lr), log=True),
        "train.epochs": Range(low * factor, high * factor),
        "train.batch_size": Choice((4, 8, 16) if rows < SOME else (8, 16, 32)),
    }
    for key, values in table.own.items():
        fitting = [v for v in values if v <= layers] if config.method_name == "freeze" else values
        open_[f"method.{key}"] = Choice(tuple(fitting or values[:1]))
    if config.train.max_steps is not None:
        del open_["train.epochs"]
    fixed = [key for key in open_ if _given(config, key)]
    notes = [f"{key}={_value(config, key)} is set, so it is not searched (--space {key}=… would)" for key in fixed]
    return {key: item for key, item in open_.items() if key not in fixed}, notes


def _given(config: Config, key: str) -> bool:
    """The user set it, to something other than null."""
    section, _, name = key.partition(".")
    return name in getattr(config, section).model_fields_set and _value(config, key) is not None


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _short(value: float) -> float:
    return float(f"{value:.2g}")
