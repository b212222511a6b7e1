"""``/health``, ``/ready`` and ``/metrics``."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.serve import state
from tunery.serve.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/health")
async def health() -> Response:
    """200 as long as the process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", responses={503: {"description": "shutting down"}})
async def ready(request: Request) -> Response:
    """200 while new requests are taken, 503 while the server shuts down."""
    serving = state.of(request)
    if serving.draining:
        return JSONResponse({"status": "shutting down"}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(state.of(request).metrics.text(), media_type=CONTENT_TYPE)
