"""``/v1/completions``: a text goes on. The text is read as it stands, without a template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.data import soft
from tunery.data.render import encode_text
from tunery.protocols import Example, Message
from tunery.serve import generation, state
from tunery.serve.endpoints.chat import LEAST, WITHOUT_LIMIT
from tunery.serve.generation import Generation
from tunery.serve.problems import ANSWERS, Problem
from tunery.serve.schema import CompletionRequest
from tunery.serve.streams import Events, unless_gone
from tunery.serve.text import Piece, token_bytes
from tunery.serve.worker import Served

router = APIRouter()


@router.post("/v1/completions", responses=ANSWERS)
async def completions(request: Request, asked: CompletionRequest) -> Response:
    """What comes after a text; of a run that translates or summarises (seq2seq), the answer to it."""
    serving = state.of(request)
    state.refuse_output(serving.served(asked.model), "text", "use /v1/classify")
    state.note_model(request, asked.model)
    text = asked.text
    if text is None:
        raise Problem(400, "One prompt a request", "prompt", "unsupported_parameter")
    started = await generation.begin(
        serving, asked.model, asked, lambda served: prompt(served, text), asked.max_tokens, asked.logprobs, trim=False
    )
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return Events(_events(started, asked.logprobs is not None, usage), started.cancel)
    found = await unless_gone(request, started.whole())
    if isinstance(found, Response):
        return found
    choice = _choice(started, found, asked.logprobs is not None, started.finish_reason)
    answer = generation.model_answer(started.served, "text_completion", "cmpl")
    return JSONResponse({**answer, "choices": [choice], "usage": started.usage})


async def _events(started: Generation, logprobs: bool, usage: bool) -> AsyncIterator[dict[str, Any]]:
    head = generation.model_answer(started.served, "text_completion", "cmpl")
    if usage:
        head["usage"] = None
    async for piece in started.pieces():
        yield {**head, "choices": [_choice(started, piece, logprobs, None)]}
    yield {**head, "choices": [_choice(started, Piece(), False, started.finish_reason)]}
    if usage:
        yield {**head, "choices": [], "usage": started.usage}


def _choice(started: Generation, piece: Piece, logprobs: bool, finish: str | None) -> dict[str, Any]:
    found = _logprobs(started.served, piece) if logprobs else None
    return {"index": 0, "text": piece.text, "logprobs": found, "finish_reason": finish}


def prompt(served: Served, text: str) -> list[int]:
    """Ids of the text. Raises Problem, TuneryError."""
    generation.too_long(text, served)
    task, tokenizer = served.tuned.task, served.tuned.tokenizer
    if task.name != "instruct":
        cleaned = served.run.cleaning.one(Example("prompt", 1, messages=(Message("user", text),), text=text))
        return list(soft.prompt(task, cleaned, tokenizer, WITHOUT_LIMIT))
    if task.soft is not None or task.soft_tokens(tokenizer):
        problem = f"{served.name} has learnt soft tokens, whose place is in its template: use /v1/chat/completions"
        raise Problem(400, problem, "model", "wrong_endpoint")
    return encode_text(text, tokenizer)[0]


def _logprobs(served: Served, piece: Piece) -> dict[str, Any]:
    def shown(token: int) -> str:
        return token_bytes(served.tuned.tokenizer, token).decode("utf-8", "replace")

    return {
        "tokens": [shown(token.id) for token in piece.tokens],
        "token_logprobs": [max(token.logprob or 0.0, LEAST) for token in piece.tokens],
        "top_logprobs": [{shown(i): max(value, LEAST) for i, value in token.top} for token in piece.tokens],
        "text_offset": piece.places,
    }
