"""``/v1/classify``: labels with probabilities. Not in OpenAI's API; the rest of its manners are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.serve import generation, state
from tunery.serve.endpoints import rows
from tunery.serve.problems import ANSWERS, Problem
from tunery.serve.schema import ClassifyRequest, Pair
from tunery.serve.streams import unless_gone
from tunery.serve.worker import Served

router = APIRouter()
TASKS = ("classify", "cloze")


@router.post("/v1/classify", responses=ANSWERS)
async def classify(request: Request, asked: ClassifyRequest) -> Response:
    """A label and the probability of each for every text, in order; for pairs of texts ``{"text", "text_pair"}``.

    A text longer than the rows of the training is cut as it was there, and ``truncated`` says so.
    """
    serving = state.of(request)
    served = serving.served(asked.model)
    state.note_model(request, asked.model)
    if served.task not in TASKS:
        problem = f"{served.name} does not classify (task {served.task})"
        raise Problem(400, problem, "model", "wrong_endpoint")
    given = asked.input if isinstance(asked.input, list) else [asked.input]
    pairs = [Pair(text=item) if isinstance(item, str) else item for item in given]
    if not all(pair.text.strip() for pair in pairs):
        raise Problem(400, "input: a text is empty", "input", "invalid_value")
    found = await unless_gone(request, rows.by_one_run(serving, asked.model, list(enumerate(pairs)), _score))
    if isinstance(found, Response):
        return found
    served, records = found
    tokens = sum(record.pop("tokens") for record in records)
    serving.metrics.tokens.labels(asked.model, "prompt").inc(tokens)
    answer = generation.model_answer(served, "list", "classify")
    return JSONResponse({**answer, "data": records, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def _score(served: Served, pairs: Sequence[tuple[int, Pair]]) -> list[dict[str, Any]]:
    encoded = [rows.encode(served, number, pair.text, pair.text_pair) for number, pair in pairs]
    found = rows.predictions(served, encoded)
    return [
        {
            "object": "classification",
            "index": number,
            "label": list(one.value) if isinstance(one.value, tuple) else one.value,
            "probabilities": one.probabilities,
            "truncated": any(window.truncated for window in windows),
            "tokens": sum(len(window.ids) for window in windows),
        }
        for (number, _), one, (_, windows) in zip(pairs, found, encoded, strict=True)
    ]
