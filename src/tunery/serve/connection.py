"""HTTP/1.1 connections: uvicorn's, with the time limits that it lacks and with errors as JSON.

uvicorn bounds the time between requests, not the time that one takes to arrive: a client that sends a byte now and then
would hold a connection for ever (https://github.com/Kludex/uvicorn/issues/157).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunery.serve.problems import Problem
from tunery.serve.state import Limits

LINGER = 256 << 20
"""Bytes of a body that was refused which are read and thrown away, so that the client gets to read the answer."""
GRACE = 2.0
"""Seconds by which the limit of a body is longer here than in ``Guard``, which can still say what is wrong."""


def connections(limits: Limits) -> type[asyncio.Protocol]:
    """The class of connections of a server."""

    class Connection(_Connection):
        bounds = limits

    return Connection


class _Connection(H11Protocol):
    bounds: Limits

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._arriving: asyncio.TimerHandle | None = None
        self._refused = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "connection": self}
        if len(self.connections) > self.bounds.connections:
            self._say(Problem(503, "Too many connections", None, "too_many_connections", 1))
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._refused += len(data)
            if self._refused > LINGER:
                self.transport.abort()
                return
        else:
            self._refused = 0
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._still()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP: a wrong Content-Length, for example."""
        self._say(Problem(400, msg, None, "invalid_http"))

    def _watch(self) -> None:
        """One clock runs as long as a request has begun to arrive and is not there yet."""
        state = self.conn.their_state
        fresh = self.cycle is None
        arriving = state is h11.SEND_BODY or (state is h11.IDLE and (fresh or bool(self.conn.trailing_data[0])))
        if not arriving or self.transport.is_closing():
            self._still()
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self.bounds.read + GRACE, self._late)

    def _still(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _late(self) -> None:
        self._arriving = None
        if self.conn.their_state is h11.IDLE:
            self._say(Problem(408, f"The request did not arrive within {self.bounds.read:g} s", None, "too_slow"))
        else:
            self.transport.abort()

    def _say(self, problem: Problem) -> None:
        """An answer outside of any request; the connection ends with it."""
        body = json.dumps(problem.body).encode()
        head = f"HTTP/1.1 {problem.status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        again = f"Retry-After: {problem.retry_after}\r\n" if problem.retry_after else ""
        self.transport.write(f"{head}{again}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()
