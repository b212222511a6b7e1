"""What every request passes first: host, token, size, depth, time. And what is counted of it.

It stands before the framework, so that nothing of a request is looked at that was not allowed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunery.serve import problems
from tunery.serve.problems import Problem
from tunery.serve.state import Serving

OPEN = ("/health", "/ready")
"""Addresses that need no token: who starts and stops servers asks them."""
ALWAYS = (*OPEN, "/metrics")
"""Addresses that are answered while the server shuts down, or is full."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
GONE = 499


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self.app, self.serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})
        begun = time.monotonic()
        answer = _Answer(scope, send, self.serving.limits.write)
        counts = scope["path"].startswith("/v1/")
        self.serving.active += counts
        try:
            await self._answer(scope, receive, answer)
        finally:
            self.serving.active -= counts
            self._count(scope, answer.status or GONE, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
        except Problem as problem:
            await problem.response()(scope, receive, answer.send)
            return
        if body is None:
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, replay, answer.send)
        except Exception as error:
            if answer.status:  # half an answer: the connection ends, so that nobody takes it for a whole one
                if not answer.complete:
                    raise
                return
            await problems.of(error).response()(scope, receive, answer.send)

    def _admit(self, scope: Scope) -> None:
        """Raises Problem for what is not let in."""
        serving, path = self.serving, scope["path"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not allowed(hosts[0], serving):
            message = "This Host is not served here; the server's option --allow-host NAME allows it"
            raise Problem(403, message, None, "host_not_allowed")
        if serving.token is not None and path not in OPEN and not _knows(serving.token, headers):
            raise Problem(401, "A token is needed: Authorization: Bearer TOKEN", None, "invalid_api_key")
        if path in ALWAYS:
            return
        if serving.draining:
            raise Problem(503, "The server is shutting down", None, "shutting_down", 5)
        if serving.active > serving.limits.requests:
            raise Problem(429, "Too many requests at once", None, "too_many_requests", 1)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client has left. Raises Problem: too large, too slow, too deep."""
        limits = self.serving.limits
        names = dict(scope["headers"])
        if b"content-length" not in names and b"transfer-encoding" not in names:
            return b""
        too_large = Problem(413, f"The body is larger than {limits.body} bytes", None, "body_too_large")
        if int(names.get(b"content-length", b"0")) > limits.body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(limits.read):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > limits.body:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Problem(408, f"The body did not arrive within {limits.read:g} s", None, "too_slow") from None
        if too_deep(bytes(body), limits.depth):
            raise Problem(400, f"The JSON has more than {limits.depth} levels", None, "json_too_deep")
        return bytes(body)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "") or (scope["path"] if scope["path"] in ALWAYS else "other")
        model = str(scope["state"].get("model", ""))
        self.serving.metrics.requests.labels(route, model, str(status)).inc()
        self.serving.metrics.seconds.labels(route).observe(seconds)
        self.serving.answered += 1


class _Answer:
    """``send``, which knows what was sent, and gives up clients that do not read."""

    def __init__(self, scope: Scope, send: Send, seconds: float) -> None:
        self._scope, self._send, self._seconds = scope, send, seconds
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            extra = [(b"x-request-id", secrets.token_hex(8).encode()), (b"x-content-type-options", b"nosniff")]
            message["headers"] = [*message.get("headers", []), *extra]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            connection: Any = self._scope["state"].get("connection")
            if connection is not None:
                connection.transport.abort()


def allowed(host: str, serving: Serving) -> bool:
    """Whether a Host header names this server. What a browser was tricked to send (DNS rebinding) does not."""
    name = re.sub(r":\d*$", "", host) if not host.endswith("]") else host
    name = name.strip("[]").lower().rstrip(".")
    if name in serving.hosts:
        return True
    if not serving.any_address:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _knows(token: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Compared in constant time, whatever the lengths: digests are."""
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, found = given.partition(b" ")
    right = hmac.compare_digest(hashlib.sha256(found.strip()).digest(), hashlib.sha256(token.encode()).digest())
    return right and scheme.lower() == b"bearer"


def too_deep(body: bytes, most: int) -> bool:
    """Whether lists and objects lie deeper in each other than ``most``; looked at before a parser sees it.

    >>> too_deep(b'[[["[[["]]]', 3), too_deep(b'[[[[]]]]', 3)
    (False, True)
    """
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    depth = 0
    for found in _BRACKETS.finditer(body):
        sign = found[0]
        if sign in (b"[", b"{"):
            depth += 1
            if depth > most:
                return True
        elif sign in (b"]", b"}"):
            depth -= 1
    return False
