"""A real PostgreSQL server for tests, in a folder of its own and on a Unix socket; skips visibly without one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

PASSWORD = "s3cret-w0rd"


def _binaries() -> Path | None:
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    other = shutil.which("initdb")
    return found[-1] if found else Path(other).resolve().parent if other else None


def _identity() -> dict[str, Any]:
    """The server refuses root: then it runs as the server's own user, or as nobody."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an empty database ``tunery``, with user and password."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here (apt-get install postgresql)")
    identity = _identity()
    folder = Path(tempfile.mkdtemp(prefix="tunery-pg-"))  # a socket's path may have 100 characters: not in tmp_path
    if identity:
        os.chown(folder, identity["user"], identity["group"])

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=120, **identity
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    data, log = folder / "data", folder / "log"
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    (folder / "password").chmod(0o644)
    run(binaries / "initdb", "-D", data, "-U", "tunery", "-A", "scram-sha-256", "--pwfile", folder / "password",
        "--no-sync", "-E", "UTF8", "--locale=C")  # fmt: skip
    options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=40"
    run(binaries / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
    try:
        run("/usr/bin/env", f"PGPASSWORD={PASSWORD}", binaries / "createdb", "-h", folder, "-U", "tunery", "tunery")
        yield f"postgresql://tunery:{PASSWORD}@/tunery?host={quote(str(folder))}"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
