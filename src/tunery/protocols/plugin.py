"""What every plug-in has, and the base of its configuration."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of every configuration section: unknown keys are errors, fields carry their own help."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class Plugin:
    """Something that is found by the name of its file. ``name`` is set by the registry."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
