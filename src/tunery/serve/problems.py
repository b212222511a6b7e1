"""What goes wrong, in the shape of OpenAI's API: ``{"error": {"message", "type", "param", "code"}}``.

A message never repeats what was asked, beyond names of keys and models: answers end up in the logs of clients.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from tunery.errors import ConfigError, DataError, TuneryError
from tunery.serve.worker import Draining, NoSuchModel, QueueFull

log = logging.getLogger("tunery")
INVALID = "invalid_request_error"
MESSAGE = 500
"""Characters of a message."""


class Problem(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP.
        message: one sentence, for a person.
        param: the key of the request that is wrong.
        code: a word for programs, OpenAI's where it has one.
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, INVALID)
        text = self.message[:MESSAGE].encode("utf-8", "replace").decode()
        return {"error": {"message": text, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


class ErrorBody(BaseModel):
    """For the OpenAPI document."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Every answer of 400 and above."""

    error: ErrorBody = Field(description="as in OpenAI's API")


ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "the request is wrong, or too long",
        401: "no token, or a wrong one",
        404: "no such model",
        413: "the body is too large",
        429: "the queue is full; see Retry-After",
        500: "a defect",
        503: "shutting down",
        504: "it took too long",
    }.items()
}
"""The errors of an endpoint, for the OpenAPI document."""


def no_such_model(name: str) -> Problem:
    return Problem(404, f"The model '{name[:100]}' does not exist", "model", "model_not_found")


def of(error: Exception) -> Problem:
    """The answer to an exception. A defect of ours is logged, by its kind alone, and not told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, QueueFull):
        return Problem(429, "Too many requests are waiting", None, "queue_full", max(error.retry_after, 1))
    if isinstance(error, Draining):
        return Problem(503, "The server is shutting down", None, "shutting_down", 5)
    if isinstance(error, NoSuchModel):
        return Problem(404, str(error), "model", "model_not_found")
    if isinstance(error, DataError | ConfigError):
        return Problem(400, error.problem)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = "" if last is None else f" at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
    log.error("a request failed: %s%s", type(error).__name__, place)  # its text may quote what was asked
    return Problem(500, "The server failed on this request", None, "internal_error")


def install(app: FastAPI) -> None:
    """All errors, also those of the framework, take this shape."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _any)
    for kind in (Problem, TuneryError):
        app.add_exception_handler(kind, _any)


async def _any(_request: Request, error: Exception) -> JSONResponse:
    return of(error).response()


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    texts = {404: "There is no such address; see /openapi.json", 405: "This address does not take this method"}
    problem = Problem(error.status_code, texts.get(error.status_code, str(error.detail)))
    response = problem.response()
    response.headers.update(error.headers or {})
    return response


_TYPES = ("str", "Turn", "Part")
"""Names of alternatives that pydantic puts between the keys."""


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """422 of the framework: the first fault, by the name of its key, without the value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    kind = str(first.get("type", ""))
    places = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    last = places[-1:] if first.get("type") == "extra_forbidden" else []  # the user's own word
    inner = places[: len(places) - len(last)]
    places = [part for part in inner if not set("[(") & set(part) and part not in _TYPES] + last
    name = ".".join(places) or None
    message = str(first.get("msg", "not valid")).removeprefix("Value error, ")
    if kind == "json_invalid":
        return Problem(400, "The body is not valid JSON").response()
    if kind == "extra_forbidden":
        return Problem(400, f"Unrecognized request argument: {name}", name, "unknown_parameter").response()
    if kind == "missing" and name is None:
        return Problem(400, "The body is missing; send a JSON object").response()
    if kind in ("model_attributes_type", "dict_type") and name is None:
        message = "The body must be a JSON object, sent with Content-Type: application/json"
    if kind == "unsupported":
        name = str(first["ctx"]["param"])
        return Problem(400, message, name, "unsupported_parameter").response()
    return Problem(400, f"{name}: {message}" if name else message, name, "invalid_value").response()
