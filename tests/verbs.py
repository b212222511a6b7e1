"""Call a verb in this process, as the shell would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunery.cli import main


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb printed and returned."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """What is on stdout, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        assert set(self.value) == {"error"} and set(self.value["error"]) == {"problem", "where", "hint", "code"}
        assert self.value["error"]["code"] == self.code
        return dict(self.value["error"])


def call(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Answer:
    capsys.readouterr()
    with pytest.raises(SystemExit) as exited:
        main([str(arg) for arg in args])
    code = exited.value.code
    printed = capsys.readouterr()
    return Answer(int(code or 0), printed.out, printed.err)
