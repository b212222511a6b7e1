"""The command line begins anew with a heap in huge pages, once; long loops give unused pages back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunery.cli import _huge_pages
from tunery.models import machine

SHOW = """
import os, sys
from pathlib import Path
from tunery.cli import _huge_pages
_huge_pages.OFFERED = Path(sys.argv[1])
_huge_pages.restart()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[2:], sys.stdin.read())
"""
glibc = pytest.mark.skipif(_huge_pages.platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")


def shown(offered: Path, **settings: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"} | settings
    child = subprocess.Popen(
        [sys.executable, "-c", SHOW, str(offered), "a b", "中"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, problems = child.communicate("rows")
    assert problems == "" and child.returncode == 0
    number, _, rest = out.strip().partition(" ")
    assert int(number) == child.pid, "the same process: who sends it a signal reaches it"
    return rest


@glibc
def test_the_process_begins_anew_where_huge_pages_are_given_on_request(tmp_path: Path) -> None:
    offered = tmp_path / "enabled"
    offered.write_text("always [madvise] never\n")
    assert shown(offered) == "glibc.malloc.hugetlb=1 ['a b', '中'] rows"
    both = "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    assert shown(offered, GLIBC_TUNABLES="glibc.malloc.check=0").startswith(both), "what was set stays set"
    for set_already in ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=2"):
        assert shown(offered, GLIBC_TUNABLES=set_already).startswith(set_already), "the user's choice"
    offered.write_text("[always] madvise never\n")
    assert shown(offered).startswith("None")
    assert shown(tmp_path / "nothing").startswith("None")


def test_a_program_that_has_torch_loaded_is_not_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offered = tmp_path / "enabled"
    offered.write_text("always [madvise] never\n")
    monkeypatch.setattr(_huge_pages, "OFFERED", offered)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("replaced"))
    assert "torch" in sys.modules
    _huge_pages.restart()


def test_the_command_line_goes_on_where_it_cannot_begin_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    offered = tmp_path / "enabled"
    offered.write_text("always [madvise] never\n")
    monkeypatch.setattr(_huge_pages, "OFFERED", offered)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(os, "execve", refuse)
    _huge_pages.restart()


def test_a_heap_is_tended_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(machine.time, "monotonic", lambda: now[0])
    trimmed: list[int] = []
    heap = machine.Heap()
    heap._trim = trimmed.append  # type: ignore[assignment]
    heap.tend()
    now[0] += machine.Heap.EVERY
    heap.tend()
    heap.tend()
    assert trimmed == [0]
