"""tunery's own cache: one root, one process at a time per entry, an entry is there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunery import rundir
from tunery.errors import ResourceError

MANIFEST = "pack.json"
"""Written last into every converted folder: which files it has and where they came from."""


def root() -> Path:
    """``$XDG_CACHE_HOME/tunery``, by default ``~/.cache/tunery``. The folder may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "tunery"


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Turn an OSError of writing to the cache into a ResourceError that names the way out."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        full = error.errno == errno.ENOSPC
        hint = "free some disk space" if full else "make it writable, or set XDG_CACHE_HOME to another place"
        raise ResourceError(f"cannot write the cache: {reason}", hint, str(path)) from error


@contextlib.contextmanager
def locked(entry: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Only one process builds an entry; others wait here. The lock goes with the process that holds it.

    ``waiting`` is called once if another process has it. Raises ResourceError.
    """
    import fcntl

    path = entry.with_name(f".{entry.name}.lock")
    with usable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waiting is not None:
                waiting()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def complete(folder: Path, **expected: Any) -> bool:
    """Whether a converted folder is whole: its manifest says what was expected, every file has its size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: entry["size"] for name, entry in manifest["files"].items()}
        whole = bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return whole and all(manifest.get(key) == value for key, value in expected.items())


def build(folder: Path, fill: Callable[[Path], None], **origin: Any) -> Path:
    """Let ``fill`` write a folder beside its place, describe it, then rename it into place.

    Call it under ``locked``. Raises ResourceError, and whatever ``fill`` raises; then nothing is left.
    """
    with usable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a killed process: we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        fill(scratch)
        with usable(folder):
            scratch.chmod(0o755)
            files = {}
            for path in sorted(p for p in scratch.rglob("*") if p.is_file()):
                path.chmod(0o644)  # transformers leaves weights readable by the owner only
                files[path.relative_to(scratch).as_posix()] = {
                    "size": path.stat().st_size,
                    "sha256": rundir.sha256(path),
                }
            rundir.write_json(scratch / MANIFEST, {**origin, "files": files})
            if folder.exists():
                shutil.rmtree(folder)
            scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def file_hash(path: Path) -> str:
    """SHA-256 of a file, remembered by path, size and time of change: hashing 0.5 GB takes half a second.

    Remembering is a convenience: a cache that cannot be written or read changes nothing.
    """
    memory = root() / "hashes.json"
    state = path.stat()
    key, stamp = str(path.resolve()), [state.st_size, state.st_mtime_ns]
    known = _hashes(memory)
    if key in known and known[key][:2] == stamp:
        return str(known[key][2])
    value = rundir.sha256(path)
    with contextlib.suppress(OSError, ResourceError):
        rundir.write_json(memory, {**_hashes(memory), key: [*stamp, value]})
    return value


def _hashes(memory: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if isinstance(value, list) and len(value) == 3}
