"""How many threads a process takes."""

from __future__ import annotations

import pytest

from tunery.models import machine


@pytest.mark.parametrize(("cpus", "processes", "threads"), [(8, "", 8), (8, "2", 4), (5, "2", 2), (2, "4", 1)])
def test_processes_share_the_cpus(cpus: int, processes: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpus", lambda: cpus)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert machine.threads() == threads
