"""The application: endpoints, errors, and the guard in front of them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from tunery.serve import problems
from tunery.serve.endpoints import chat, classify, completions, embeddings, health, models
from tunery.serve.guard import Guard
from tunery.serve.state import Serving

ABOUT = """Runs of tunery, with the names and manners of OpenAI's API.

`/v1/classify` is an addition of its own; what would change an answer and is not supported is refused, never ignored.
"""


def api(serving: Serving) -> FastAPI:
    """The endpoints. There are no pages: those of the framework load scripts from elsewhere."""
    app = FastAPI(title="tunery serve", description=ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.serving = serving
    problems.install(app)
    for family in (chat, completions, embeddings, classify, models, health):
        app.include_router(family.router)
    if serving.token is not None:  # who has no secret cannot keep others from changing what is served
        app.include_router(models.admin)
    serving.metrics.watch(serving.worker.stats)
    return app


def create(serving: Serving) -> ASGIApp:
    """What a server runs."""
    return Guard(api(serving), serving)
