"""Where the trials of a search are kept: SQLite in its folder, or a PostgreSQL server that several machines share.

A password never leaves this module: what is shown and written is ``shown(url)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tunery.errors import ConfigError, ResourceError

FILE = "study.db"
PATIENCE = (0.2, 1, 3, 10, 30)
"""Seconds between attempts while a server does not answer: it may be restarting, and a training is worth waiting."""
_T = TypeVar("_T")


def sqlite(folder: Path) -> str:
    """The address of a search's own database; absolute, so that it holds in any working directory."""
    return f"sqlite:///{(folder / FILE).absolute()}"


def postgresql(url: str) -> str:
    """The address of a server for psycopg. Raises ConfigError: not one, or psycopg is missing."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(url)
    except (ArgumentError, ValueError):
        found = None
    if found is None or found.get_backend_name() not in ("postgresql", "postgres") or not found.database:
        hint = "write postgresql://USER@HOST/DATABASE; without it, SQLite in the search's folder is used"
        raise ConfigError("not the address of a PostgreSQL database", hint, "--storage")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError(
            "PostgreSQL needs the package psycopg", "pip install 'tunery[postgres]'", "--storage"
        ) from None
    return str(found.set(drivername="postgresql+psycopg").render_as_string(hide_password=False))


def shown(url: str) -> str:
    """The address without its password, neither before the host nor among the options.

    It is an address still: psycopg finds the password in PGPASSWORD or ~/.pgpass.
    """
    from sqlalchemy.engine import URL, make_url

    parts = make_url(url)
    open_ = {name: value for name, value in parts.query.items() if "password" not in name}
    kind, where = parts.get_backend_name(), {"host": parts.host, "port": parts.port, "database": parts.database}
    without = URL.create(kind, username=parts.username, query=open_, **where)
    return str(without.render_as_string(hide_password=False))


def open_storage(url: str) -> Any:
    """Optuna's storage at an address; its tables are made if there are none.

    Raises ResourceError: it does not answer, or is not Optuna's.
    """
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    settings: dict[str, Any] = {"connect_args": {"timeout": 60}}
    if not url.startswith("sqlite"):
        settings = {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}
    try:
        engine = create_engine(url, **settings)
        try:
            with locked(engine, "tables"), warnings.catch_warnings():  # two that make tables at once would both fail
                warnings.simplefilter("ignore")
                return RDBStorage(url, engine_kwargs=settings)
        finally:
            engine.dispose()
    except (SQLAlchemyError, StorageInternalError, RuntimeError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        hint = "is the server running, and are user, password (~/.pgpass, PGPASSWORD) and database right?"
        problem = f"the study's database cannot be used: {reason[0] if reason else type(error).__name__}"
        raise ResourceError(problem, "" if url.startswith("sqlite") else hint, shown(url)) from None


_THREADS = threading.RLock()


@contextlib.contextmanager
def locked(engine: Any, name: str) -> Iterator[None]:
    """Only one worker of all machines is in here at a time.

    An advisory lock of PostgreSQL, which a dead worker's connection gives back. SQLite is used by one process alone
    (its folder is locked), so that a lock among threads does.
    """
    with _THREADS:
        if engine.dialect.name != "postgresql":
            yield
            return
        from sqlalchemy import text

        key = int.from_bytes(hashlib.sha256(f"tunery {name}".encode()).digest()[:8], "big", signed=True)
        with engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            yield


def patiently(call: Callable[[], _T]) -> _T:
    """Again and again while the database does not answer, for a minute. Raises ResourceError."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    for pause in (*PATIENCE, None):
        try:
            return call()
        except (StorageInternalError, DBAPIError) as error:
            if pause is None:
                cause = str(error.__cause__ or error).strip().splitlines()[0]
                raise ResourceError(
                    f"the study's database does not answer: {cause}", "tunery search --resume"
                ) from None
            time.sleep(pause)
    raise AssertionError
