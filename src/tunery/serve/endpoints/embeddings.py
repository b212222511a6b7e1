"""``/v1/embeddings``: what an encoder makes of a text, before the head of its task."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tunery.data.batch import collate
from tunery.data.render import encode_row
from tunery.evaluate import undisturbed
from tunery.models import heads
from tunery.protocols import Encoded, Example
from tunery.serve import generation, state
from tunery.serve.endpoints import rows
from tunery.serve.problems import ANSWERS, Problem
from tunery.serve.schema import EmbeddingRequest
from tunery.serve.streams import unless_gone
from tunery.serve.worker import Served

router = APIRouter()


@router.post("/v1/embeddings", responses=ANSWERS)
async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
    """One vector of length 1 a text: the tuned backbone's outputs, pooled as the run's head pools them."""
    serving = state.of(request)
    served = serving.served(asked.model)
    state.note_model(request, asked.model)
    if served.tuned.base.family != "encoder":
        raise Problem(400, f"{served.name} is no encoder: it gives no embeddings", "model", "wrong_endpoint")
    size = int(served.tuned.base.config.hidden_size)
    if asked.dimensions not in (None, size):
        raise Problem(400, f"dimensions: the vectors of {served.name} have {size}", "dimensions", "invalid_value")
    texts = asked.input if isinstance(asked.input, list) else [asked.input]
    if not all(text.strip() for text in texts):
        raise Problem(400, "input: a text is empty", "input", "invalid_value")
    found = await unless_gone(request, rows.by_one_run(serving, asked.model, list(enumerate(texts)), _vectors))
    if isinstance(found, Response):
        return found
    served, pairs = found
    tokens = sum(count for _, count in pairs)
    serving.metrics.tokens.labels(asked.model, "prompt").inc(tokens)
    data = [
        {"object": "embedding", "index": i, "embedding": _coded(vector, asked.encoding_format == "base64")}
        for i, (vector, _) in enumerate(pairs)
    ]
    answer = generation.model_answer(served, "list", "embd")
    return JSONResponse({**answer, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def _vectors(served: Served, texts: Sequence[tuple[int, str]]) -> list[tuple[torch.Tensor, int]]:
    """→ vector and number of tokens of each. Raises Problem for a text that is longer than a row of the training."""
    encoded = [_encode(served, number, text) for number, text in texts]
    for (number, _), windows in zip(texts, encoded, strict=True):
        if len(windows) > 1 or windows[0].truncated:
            most = state.settings(served).max_length
            raise Problem(400, f"input: text {number} has more than {most} tokens", "input", "context_length_exceeded")
    tuned = served.tuned
    device = next(tuned.model.parameters()).device
    found: Any = tuned.base.pooling()
    pooling: heads.Pooling = "cls" if found == "stock" else found  # a stock head reads the first token
    batch = collate([windows[0] for windows in encoded], tuned.tokenizer.pad_token_id or 0, device)
    with undisturbed(tuned.model), torch.inference_mode():
        pooled = heads.row_vectors(tuned.model, batch, pooling)
        unit = torch.nn.functional.normalize(pooled.float(), dim=-1).cpu()
    return [(vector, len(windows[0].ids)) for vector, windows in zip(unit, encoded, strict=True)]


def _encode(served: Served, number: int, text: str) -> list[Encoded]:
    """As rows to classify are; where a row of the task is more than a text, the text alone."""
    if served.task in ("classify", "regress"):
        return rows.encode(served, number, text)[1]
    tuned = served.tuned
    if tuned.task.soft is not None or tuned.task.soft_tokens(tuned.tokenizer):
        problem = f"{served.name} reads soft tokens that stand in rows of task {served.task}: it gives no embeddings"
        raise Problem(400, problem, "model", "wrong_endpoint")
    example = served.run.cleaning.one(Example("input", number + 1, text=text))
    return [encode_row(example, tuned.tokenizer, state.settings(served).max_length)]


def _coded(vector: torch.Tensor, packed: bool) -> Any:
    """Little-endian floats of 4 bytes, as OpenAI packs them."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode() if packed else vector.tolist()
