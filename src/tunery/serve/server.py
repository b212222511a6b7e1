"""The process: a socket, a worker, uvicorn between them, and an end without lost answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tunery.errors import ConfigError, ResourceError
from tunery.serve import aliasing, app
from tunery.serve.connection import connections
from tunery.serve.guard import LOOPBACK
from tunery.serve.state import Limits, Serving
from tunery.serve.worker import Worker

log = logging.getLogger("tunery")
TOKEN = 16
"""Characters of a token, at least."""


@dataclass(frozen=True, slots=True)
class Options:
    """What ``tunery serve`` is told."""

    runs: Mapping[str, Path]
    aliases: frozenset[str] = frozenset()
    """Those of the names that are aliases, which are followed."""
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allow_hosts: Sequence[str] = ()
    runs_folder: Path = Path("runs")
    max_batch: int = 32
    max_queue: int = 256
    drain: float = 30.0
    limits: Limits = field(default_factory=Limits)


def run(options: Options, on_ready: Callable[[str], None]) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT → what happened. ``on_ready`` gets the address.

    Raises ConfigError: an open address without a token. ResourceError: the port is in use. ModelError: a run cannot be
    loaded.
    """
    begun = time.monotonic()
    refuse_open(options)
    listener = bind(options.host, options.port)
    with contextlib.closing(listener):
        worker = Worker(options.runs, max_batch=options.max_batch, max_queue=options.max_queue)
        worker.start()
        serving = serving_of(options, worker)
        server = Server(serving, options, lambda: on_ready(address(listener)))
        where = address(listener)
        try:
            asyncio.run(server.serve([listener]))
        except OSError as error:
            raise _unavailable(error, options.host, options.port) from None
        finally:
            worker.stop(0)
    return {
        "address": where,
        "models": sorted(options.runs),
        "requests": serving.answered,
        "cut_off": server.cut_off,
        "seconds": round(time.monotonic() - begun, 3),
    }


def serving_of(options: Options, worker: Worker) -> Serving:
    """The state of a server for these options."""
    hosts = {*options.allow_hosts, options.host}
    return Serving(
        worker,
        options.limits,
        options.token,
        frozenset(host.lower().strip("[]") for host in hosts) | LOOPBACK,
        any_address=not _local(options.host),
        runs_folder=options.runs_folder,
        aliases=options.aliases,
    )


class Server(uvicorn.Server):
    """uvicorn, which on a signal first lets answers end. New requests are answered with 503 meanwhile."""

    def __init__(self, serving: Serving, options: Options, on_ready: Callable[[], None]) -> None:
        quiet()
        config = uvicorn.Config(
            app.create(serving),
            http=connections(options.limits),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(options.limits.keep_alive),
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)
        self.serving, self.options, self.on_ready = serving, options, on_ready
        self.cut_off = 0
        self._follower: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        following = aliasing.follow(self.serving, self.options.aliases, self.options.runs_folder)
        self._follower = asyncio.create_task(following)
        self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._follower is not None:
            self._follower.cancel()
        self.serving.draining = True
        end = time.monotonic() + self.options.drain
        while self.serving.active and time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        self.cut_off = await asyncio.get_running_loop().run_in_executor(None, self.serving.worker.stop, 0.0)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: the process ends with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def quiet() -> None:
    """Nothing of uvicorn's goes to the log: its tracebacks may quote what was asked."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False


# ------------------------------------------------------------------------------------------------ addresses


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address, before models are loaded: a port in use is known at once. Raises ResourceError."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"no such address: {error.strerror or error}", "--host 127.0.0.1", "--host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise _unavailable(error, host, port) from None
    return listener


def _unavailable(error: OSError, host: str, port: int) -> ResourceError:
    reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ResourceError(
        f"cannot listen on {host} port {port}: {reason}", "choose another --port; 0 takes one that is free", "--port"
    )


def address(listener: socket.socket) -> str:
    """http://HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(one).partition("%")[0]).is_loopback for one in found)


def refuse_open(options: Options) -> None:
    """Raises ConfigError for an address that others can reach, without a token."""
    if options.token is None and not _local(options.host):
        problem = f"{options.host} can be reached from other machines, and there is no token"
        raise ConfigError(problem, "add --token-file FILE, or stay on 127.0.0.1", "--host")


def read_token(file: Path) -> str:
    """Raises ConfigError: no file, too short, or more than one word."""
    hint = "python -c 'import secrets; print(secrets.token_urlsafe(32))' > FILE; chmod 600 FILE"
    try:
        token = file.read_text(encoding="ascii").strip()
        mode = file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise ConfigError(f"the token cannot be read: {reason}", hint, str(file)) from None
    if len(token) < TOKEN or len(token.split()) != 1:
        raise ConfigError(f"a token is one word of {TOKEN} characters or more", hint, str(file))
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s can be read by other users of this machine; chmod 600 %s", file, file)
    return token
