"""The computer: how many CPUs this process may use, memory, and what makes torch fast on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def cpu_numbers() -> list[int]:
    """The CPUs this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def shares(workers: int, numbers: Sequence[int]) -> list[list[int]]:
    """CPUs of each worker: as many for each as there are, neighbours together; one for each if there are too few.

    >>> shares(2, [0, 1, 2, 3, 4]), shares(3, [0, 1])
    ([[0, 1], [2, 3, 4]], [[0], [1], [0]])
    """
    if workers > len(numbers):
        return [[numbers[i % len(numbers)]] for i in range(workers)]
    cuts = [i * len(numbers) // workers for i in range(workers + 1)]
    return [list(numbers[cuts[i] : cuts[i + 1]]) for i in range(workers)]


def cpus() -> int:
    """CPUs this process may really use: affinity, and the quota of its control group."""
    allowed = len(cpu_numbers())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control groups of version 2 here
    return allowed


def threads() -> int:
    """This process's share of the CPUs: a launcher (torchrun, accelerate) says how many processes there are."""
    return max(cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def prepare(kernels: int | None = None) -> None:
    """Threads as many as this process's CPUs, and a heap that keeps its pages.

    glibc returns large buffers to the kernel after each step and takes them again in the next: 200,000 page
    faults a step. Raising the thresholds gave 5-19 % on a CPU.

    Args:
        kernels: how many oneDNN keeps at most, where no batch has the shape of the one before: its 1024 took 0.3 GB
            after two minutes of serving. A model needs some dozens, in each layer again.
    """
    torch.set_num_threads(threads())
    if kernels is not None:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(kernels))  # read when the first kernel is made
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2_000_000_000)
        libc.mallopt(_M_TOP_PAD, 64 << 20)


class Heap:
    """Returns to the system, now and then, what the heap holds unused between its pieces.

    A heap that keeps its pages grows with the shapes of batches: after 55 steps of 8 rows a training of smollm2 had
    taken 4.1 GB, and 3.8 where it was tended and in huge pages. Tending takes some hundredths of a second.
    """

    EVERY = 20.0
    """Seconds."""

    def __init__(self) -> None:
        self._trim = ctypes.CDLL(None).malloc_trim if platform.libc_ver()[0] == "glibc" else None
        self._last = time.monotonic()

    def tend(self) -> None:
        """To be called often."""
        if self._trim is not None and time.monotonic() - self._last >= self.EVERY:
            self._trim(0)
            self._last = time.monotonic()


def reset_peak_memory() -> None:
    """Start measuring the peak anew, where the system allows it."""
    with contextlib.suppress(OSError):  # then the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: torch.device) -> int:
    """Largest memory in bytes: of the GPU, or the process's resident set on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)


def available_memory(device: torch.device) -> int | None:
    """Bytes that may still be taken: of the GPU, or of the machine and this process's control group; None: unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_meminfo("MemAvailable"), _cgroup_left()]
    return min((n for n in found if n is not None), default=None)


def total_memory() -> int | None:
    """Bytes of the machine's memory; None: unknown."""
    return _meminfo("MemTotal")


def resident_memory(process: int) -> int | None:
    """Bytes that a process has in memory; None where the system does not tell, or it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _cgroup_left() -> int | None:
    """What the limit of a control group (version 2) leaves; the cache of files counts as free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
