"""Rows that are too short or too long to be worth learning from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunery.data.words import split
from tunery.errors import ConfigError
from tunery.protocols import Cleaner, Strict


class Length(Cleaner):
    """Of the input as it is at this place among the steps. Chinese characters count as words."""

    class Config(Strict):
        name: Literal["length"] = "length"
        min: int | None = Field(None, ge=1, description="fewest characters or words")
        max: int | None = Field(None, ge=1, description="most characters or words")
        unit: Literal["characters", "words"] = Field("characters", description="what is counted")

    summary = "leaves out rows with too short or too long inputs; rows to predict stay"
    changes = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        least, most = config.min, config.max
        if least is None and most is None:
            raise ConfigError("step length needs a bound", "write {name: length, min: 3}", "data.clean")
        if least is not None and most is not None and least > most:
            raise ConfigError(f"step length: min {least} is more than max {most}", "exchange them", "data.clean")

    def drops(self, text: str) -> str | None:
        count = len(text) if self.config.unit == "characters" else len(split(text))
        if self.config.min is not None and count < self.config.min:
            return f"{count} {self.config.unit}, fewer than {self.config.min}"
        if self.config.max is not None and count > self.config.max:
            return f"{count} {self.config.unit}, more than {self.config.max}"
        return None
