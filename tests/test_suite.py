"""The common suite: what every method must show with every task on every architecture.

This process trains the cells, a fresh one loads each as soon as it is saved. ``docs/suite.json`` has what was found;
the table of ``docs/methods.md`` is made from it. ``pytest tests/test_suite.py --update-suite`` writes it anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import suite_cells
import suite_checks
from small import one_thread  # noqa: F401
from suite_cells import Cell, Found
from tunery.rundir import read_json

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "suite.json"
CELLS = suite_cells.cells()
every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


class Bench:
    """Trains each cell once; hands it to the other process; has what both found."""

    def __init__(self, folder: Path) -> None:
        self.models, self.runs = folder / "models", folder / "runs"
        self.models.mkdir()
        self.runs.mkdir()
        self.found: dict[Cell, Found] = {}
        self._loaded: set[Cell] = set()
        worker = Path(suite_cells.__file__).with_name("suite_worker.py")
        self._errors = (folder / "worker.err").open("w+", encoding="utf-8")
        self.worker = subprocess.Popen(
            [sys.executable, worker], stdin=subprocess.PIPE, stdout=self._errors, stderr=self._errors, text=True
        )

    def trained(self, cell: Cell) -> Found:
        if cell not in self.found:
            self.found[cell] = found = suite_checks.run(cell, self.models, self.runs)
            if found.refused is None and "trains" not in found.failed:
                assert self.worker.stdin is not None
                print(found.folder, file=self.worker.stdin, flush=True)
        return self.found[cell]

    def loaded(self, cell: Cell) -> Found:
        found = self.trained(cell)
        if cell in self._loaded or found.refused is not None or "trains" in found.failed:
            return found
        result = found.folder / "reloaded.json"
        while not result.exists():
            assert self.worker.poll() is None, f"the loading process died: {self.errors()}"
            time.sleep(0.02)
        found.failed |= read_json(result)
        self._loaded.add(cell)
        return found

    def errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:]

    def close(self) -> None:
        self.worker.communicate(timeout=60)
        self._errors.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("suite"))
    yield bench
    bench.close()


@every_cell
def test_trains(cell: Cell, bench: Bench) -> None:
    assert not bench.trained(cell).failed


@every_cell
def test_loads(cell: Cell, bench: Bench) -> None:
    mine = set(bench.trained(cell).failed)
    found = bench.loaded(cell)
    assert not {name: text for name, text in found.failed.items() if name not in mine}


def test_published(bench: Bench, request: pytest.FixtureRequest) -> None:
    """The documentation says what this run of the suite has found."""
    fresh = {str(cell): bench.loaded(cell).published() for cell in CELLS if cell in bench.found}
    if request.config.getoption("--update-suite"):
        write(fresh, whole=len(fresh) == len(CELLS))
    old = json.loads(RESULTS.read_text(encoding="utf-8"))
    stale = [name for name, value in fresh.items() if old.get(name) != value]
    assert not stale, f"docs/suite.json says otherwise of {len(stale)} cells, for example {stale[:3]}: --update-suite"
    if len(fresh) == len(CELLS):
        assert not old.keys() - fresh.keys(), "docs/suite.json has cells that do not exist"


def write(fresh: dict[str, Any], whole: bool) -> None:
    """One line a cell; a part of the suite changes its own lines only."""
    old = {} if whole or not RESULTS.exists() else json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted({**old, **fresh}.items())]
    RESULTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
