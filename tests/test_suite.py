"""The common suite: what every method must show with every task on every architecture.

This process trains the cells, a fresh one loads each as soon as it is saved. ``docs/suite.json`` has what was found;
the table of ``docs/methods.md`` is made from it. ``pytest tests/test_suite.py --update-suite`` writes it anew.
With ``-n auto --dist loadgroup`` the methods are shared out among as many processes as there are CPUs.
"""

from __future__ import annotations

import fcntl
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
every_cell = pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=str(cell), marks=pytest.mark.xdist_group(cell.method)) for cell in CELLS]
)


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
def bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("suite"))
    yield bench
    bench.close()
    if request.config.getoption("--update-suite"):
        update({str(cell): found.published() for cell, found in bench.found.items()})


def update(fresh: dict[str, Any]) -> None:
    """One line a cell; a part of the suite, or one of several processes, changes its own lines only."""
    with RESULTS.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        values = {**json.loads(stream.read() or "{}"), **fresh}
        lines = [f"  {json.dumps(str(cell))}: {json.dumps(values[str(cell)])}" for cell in CELLS if str(cell) in values]
        stream.truncate(0)
        stream.write("{\n" + ",\n".join(lines) + "\n}\n")


@every_cell
def test_trains(cell: Cell, bench: Bench) -> None:
    assert not bench.trained(cell).failed


@every_cell
def test_loads(cell: Cell, bench: Bench, request: pytest.FixtureRequest) -> None:
    """In a fresh process; and the documentation says what the suite has found."""
    mine = set(bench.trained(cell).failed)
    found = bench.loaded(cell)
    assert not {name: text for name, text in found.failed.items() if name not in mine}
    if not request.config.getoption("--update-suite"):
        published = json.loads(RESULTS.read_text(encoding="utf-8"))
        assert published.get(str(cell)) == found.published(), "docs/suite.json is stale: --update-suite"
