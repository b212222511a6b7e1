"""A heap in huge pages: smollm2 learnt 373 and 419 tokens a second with it and 366 and 360 without, on two CPUs."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
"""glibc reads it when a process begins; there is no call for it."""
OFFERED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart() -> None:
    """Begin this process anew with the setting, before anything heavy is loaded: same process, arguments and files.

    Nothing happens where the kernel does not give huge pages on request, where the setting is there already (so this
    happens once), or where torch is loaded, so a program that calls the command line is not replaced.
    """
    given = os.environ.get(VARIABLE, "")
    if TUNABLE in given or "torch" in sys.modules or platform.libc_ver()[0] != "glibc":
        return
    try:
        on_request = "[madvise]" in OFFERED.read_text(encoding="ascii")
    except OSError:
        return
    if on_request and sys.executable:
        settings = {**os.environ, VARIABLE: f"{given}:{TUNABLE}=1".lstrip(":")}
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], settings)  # noqa: S606 (no shell is wanted)
        except OSError:
            return  # the setting is a matter of speed
