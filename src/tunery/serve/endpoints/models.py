"""``/v1/models``, and ``/v1/adapters`` to change them while serving."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.errors import TuneryError
from tunery.rundir import RunDir
from tunery.serve import state
from tunery.serve.problems import ANSWERS, Problem
from tunery.serve.schema import AdapterRequest
from tunery.serve.state import Serving
from tunery.serve.worker import Draining, Served

router = APIRouter()
admin = APIRouter()


@router.get("/v1/models", responses=ANSWERS)
async def models(request: Request) -> Response:
    """What ``model`` in a request may be."""
    found = state.of(request).worker.models()
    return JSONResponse({"object": "list", "data": [card(found[name]) for name in sorted(found)]})


@router.get("/v1/models/{name}", responses=ANSWERS)
async def model(request: Request, name: str) -> Response:
    """One of them."""
    served = state.of(request).served(name)
    state.note_model(request, name)
    return JSONResponse(card(served))


def card(served: Served) -> dict[str, Any]:
    """A model as OpenAI's API shows it, and what it is for."""
    return {
        "id": served.name,
        "object": "model",
        "created": int(served.loaded),
        "owned_by": "tunery",
        "run": served.path.name,
        "base": Path(served.base).name if Path(served.base).is_absolute() else served.base,
        "task": served.task,
        "method": served.method,
        "endpoints": endpoints(served),
        "context_length": state.context(served) if state.context(served) < 1 << 30 else None,
    }


def endpoints(served: Served) -> list[str]:
    if served.output == "text":
        return ["/v1/completions"] if served.task == "lm" else ["/v1/chat/completions", "/v1/completions"]
    found = ["/v1/classify"] if served.task in ("classify", "cloze") else []
    return [*found, "/v1/embeddings"] if served.tuned.base.family == "encoder" else found


@admin.post("/v1/adapters", responses=ANSWERS)
async def load(request: Request, asked: AdapterRequest) -> Response:
    """Serve a run of the server's folder under a name; if the name is served already, it is swapped. Requests that came
    before are finished by the run they came for.
    """
    serving = state.of(request)
    _refuse_followed(serving, asked.name)
    path = _path(serving, asked.run)
    served = await changed(serving, asked.name, path)
    return JSONResponse(card(served), 201)


@admin.delete("/v1/adapters/{name}", responses=ANSWERS)
async def unload(request: Request, name: str) -> Response:
    """Serve a name no more."""
    serving = state.of(request)
    serving.served(name)
    state.note_model(request, name)
    _refuse_followed(serving, name)
    if len(serving.worker.models()) == 1:
        raise Problem(409, "It is the last model that is served", None, "last_model")
    await asyncio.wrap_future(serving.worker.unload(name))
    return JSONResponse({"id": name, "object": "model", "deleted": True})


async def changed(serving: Serving, name: str, path: Path) -> Served:
    """Load or swap. Raises Problem 409 if the run cannot be loaded; what is served stays as it is then."""
    try:
        return await asyncio.wrap_future(serving.worker.load(name, path))
    except Draining:
        raise
    except TuneryError as error:
        raise Problem(409, f"The run cannot be served: {error.problem}", "run", "not_loadable") from None


def _refuse_followed(serving: Serving, name: str) -> None:
    if name in serving.aliases:
        message = f"'{name}' is an alias that this server follows; change it with tunery promote"
        raise Problem(409, message, "name", "followed_alias")


def _path(serving: Serving, run: str) -> Path:
    """A run of the folder, by its name: never a path from a request."""
    path = serving.runs_folder / run
    if not RunDir(path).manifest_file.is_file():
        raise Problem(404, f"There is no run '{run}' in the server's folder", "run", "run_not_found")
    return path
