"""Answers that wait for the worker: whole ones and server-sent events. A client that leaves frees its row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tunery.serve import problems

T = TypeVar("T")
GONE = 499
"""Nobody reads this; it is in the metrics (nginx's number for it)."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """The result of the work, which is cancelled when the client leaves."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)  # nobody is left to be told what it raises
        return Response(status_code=GONE)
    finally:
        for task in (working, leaving):
            task.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """A stream of events that ends with ``[DONE]``, or with an error in OpenAI's shape.

    Args:
        events: objects to send.
        close: called at the end, whatever the end is, also if nobody has read the first event.
    """

    def __init__(self, events: AsyncIterator[dict[str, Any]], close: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx passes pieces on at once
        super().__init__(_lines(events), 200, headers, "text/event-stream")
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _lines(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield line(event)
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield line(problems.of(error).body)


def line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
