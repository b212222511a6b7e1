"""``/v1/chat/completions``: the next turn of a conversation, asked the way the run was trained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.data import soft
from tunery.protocols import Example, Message
from tunery.serve import generation, state
from tunery.serve.generation import Generation
from tunery.serve.problems import ANSWERS, Problem
from tunery.serve.schema import ChatRequest
from tunery.serve.streams import Events, unless_gone
from tunery.serve.text import Piece, token_bytes
from tunery.serve.worker import Served

router = APIRouter()
LEAST = -9999.0
"""What OpenAI's API gives for a token that cannot come; JSON has no infinity."""
WITHOUT_LIMIT = 1 << 30


@router.post("/v1/chat/completions", responses=ANSWERS)
async def chat(request: Request, asked: ChatRequest) -> Response:
    """The next turn of a conversation. The prompt is made with the run's own template, never with one of the client."""
    serving = state.of(request)
    state.refuse_output(serving.served(asked.model), "text", "use /v1/classify")
    state.note_model(request, asked.model)
    most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    messages = [turn.message for turn in asked.messages]
    started = await generation.begin(
        serving, asked.model, asked, lambda served: prompt(served, messages), most, logprobs, trim=True
    )
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return Events(_events(started, logprobs is not None, usage), started.cancel)
    return await _whole(request, started, logprobs is not None)


async def _whole(request: Request, started: Generation, logprobs: bool) -> Response:
    found = await unless_gone(request, started.whole())
    if isinstance(found, Response):
        return found
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": found.text, "refusal": None},
        "logprobs": _logprobs(started.served, found) if logprobs else None,
        "finish_reason": started.finish_reason,
    }
    answer = generation.model_answer(started.served, "chat.completion", "chatcmpl")
    return JSONResponse({**answer, "choices": [choice], "usage": started.usage})


async def _events(started: Generation, logprobs: bool, usage: bool) -> AsyncIterator[dict[str, Any]]:
    head = generation.model_answer(started.served, "chat.completion.chunk", "chatcmpl")
    if usage:
        head["usage"] = None

    def event(delta: dict[str, Any], found: Any = None, finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": found, "finish_reason": finish}]}

    yield event({"role": "assistant", "content": ""})
    async for piece in started.pieces():
        yield event({"content": piece.text}, _logprobs(started.served, piece) if logprobs else None)
    yield event({}, None, started.finish_reason)
    if usage:
        yield {**head, "choices": [], "usage": started.usage}


def prompt(served: Served, messages: list[Message]) -> list[int]:
    """Ids to answer from, as ``Run.generate`` makes them. Raises Problem, TuneryError."""
    generation.too_long(sum(len(message.content) for message in messages), served)
    tuned = served.tuned
    if tuned.task.name != "instruct" and len(messages) > 1:
        problem = f"{served.name} (task {served.task}) was not trained on conversations: send one message"
        raise Problem(400, problem, "messages", "invalid_value")
    turns = tuple(served.run.cleaning.message(turn) for turn in messages)
    example = Example("messages", 1, messages=turns, text=turns[-1].content)
    return list(soft.prompt(tuned.task, example, tuned.tokenizer, WITHOUT_LIMIT))


def _logprobs(served: Served, piece: Piece) -> dict[str, Any]:
    content = []
    for token in piece.tokens:
        entry = _entry(served, token.id, token.logprob)
        entry["top_logprobs"] = [_entry(served, other, value) for other, value in token.top]
        content.append(entry)
    return {"content": content, "refusal": None}


def _entry(served: Served, token: int, logprob: float | None) -> dict[str, Any]:
    raw = token_bytes(served.tuned.tokenizer, token)
    value = LEAST if logprob is None else max(logprob, LEAST)
    return {"token": raw.decode("utf-8", "replace"), "logprob": value, "bytes": list(raw)}
