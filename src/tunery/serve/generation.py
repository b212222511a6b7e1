"""One answer on its way: from the worker's thread to the request that waits for it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunery.generate.engine import Sampling
from tunery.serve.problems import Problem
from tunery.serve.schema import Sampled
from tunery.serve.state import Serving, context
from tunery.serve.text import Piece, Writer
from tunery.serve.worker import Finish, Served, Token

SEEDS = 1 << 31
SWAPS = 8
"""How often a request begins again because its model was swapped while its prompt was made."""
Prompt = Callable[[Served], list[int]]


@dataclass(slots=True)
class Generation:
    """An answer that the worker writes. Made in the event loop; ``token`` and ``end`` are called by the worker."""

    served: Served
    prompt_tokens: int
    writer: Writer
    deadline: float
    loop: asyncio.AbstractEventLoop
    serving: Serving
    begun: float = field(default_factory=time.monotonic)
    cancel: Callable[[], None] = lambda: None
    finish_reason: str = ""
    tokens: int = 0
    """Written so far."""
    _queue: asyncio.Queue[Token | Finish] = field(default_factory=asyncio.Queue)

    def token(self, token: Token) -> None:
        self._put(token)

    def end(self, finish: Finish) -> None:
        self._put(finish)

    def _put(self, found: Token | Finish) -> None:
        try:
            self.loop.call_soon_threadsafe(self._queue.put_nowait, found)
        except RuntimeError:  # the server is gone
            return

    @property
    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": total}

    async def pieces(self) -> AsyncIterator[Piece]:
        """Pieces of text as they come; afterwards ``finish_reason`` is set. Raises Problem."""
        counted = self.serving.metrics.tokens.labels(self.served.name, "completion")
        try:
            while True:
                found = await self._next()
                if isinstance(found, Finish):
                    self._check(found)
                    if piece := self.writer.end():
                        yield piece
                    if not self.finish_reason:
                        self.finish_reason = found.reason
                    return
                if not self.tokens:
                    self.serving.metrics.first.labels(self.served.name).observe(time.monotonic() - self.begun)
                self.tokens += 1
                counted.inc()
                piece = self.writer.add(found)
                if piece.stopped:
                    self.finish_reason = "stop"
                if piece:
                    yield piece
                if piece.stopped:
                    return
        finally:
            self.cancel()

    async def whole(self) -> Piece:
        """The answer at once. Raises Problem."""
        answer = Piece()
        texts = []
        async for piece in self.pieces():
            texts.append(piece.text)
            answer.tokens += piece.tokens
            answer.places += piece.places
        answer.text = "".join(texts)
        return answer

    async def _next(self) -> Token | Finish:
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self._queue.get()
        except TimeoutError:
            limit = self.serving.limits.timeout
            raise Problem(504, f"The answer took more than {limit:g} s", None, "timeout") from None

    def _check(self, finish: Finish) -> None:
        if finish.reason == "cancelled" or (finish.reason == "error" and self.serving.draining):
            raise Problem(503, "The server shut down, or unloaded the model, before the answer ended", None, "cut_off")
        if finish.reason == "error":
            raise Problem(500, "The engine failed on this request", None, "engine_error")


async def begin(
    serving: Serving,
    name: str,
    asked: Sampled,
    prompt: Prompt,
    most: int | None,
    logprobs: int | None,
    trim: bool,
) -> Generation:
    """Hand a request to the worker.

    Args:
        prompt: makes the ids for the model; called again if the model is swapped meanwhile.
        most: tokens of the answer that are asked for.
        trim: leave out white space at both ends of the answer.

    Raises Problem: no such model, too long. Raises what ``Worker.submit`` raises.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + serving.limits.timeout
    begun = time.monotonic()
    seed = secrets.randbelow(SEEDS) if asked.seed is None else asked.seed % SEEDS
    for _ in range(SWAPS):
        served = serving.served(name)
        ids, stop_ids = await loop.run_in_executor(serving.prompts, _prepared, serving, served, prompt)
        room = _room(serving, served, ids, most)
        writer = Writer(served.tuned.tokenizer, asked.stops, trim, logprobs is not None)
        found = Generation(served, len(ids), writer, deadline, loop, serving, begun)
        found.cancel = serving.worker.submit(
            name, ids, sampling_of(asked, room, seed), stop_ids, found.token, found.end, logprobs
        )
        if serving.worker.models().get(name) is served:
            serving.metrics.tokens.labels(name, "prompt").inc(len(ids))
            return found
        found.cancel()  # a prompt made for one run must not be answered by another
    raise Problem(503, f"{name} is being swapped all the time", "model", "swapping", 1)


def _prepared(serving: Serving, served: Served, prompt: Prompt) -> tuple[list[int], tuple[int, ...]]:
    return prompt(served), serving.stop_ids(served)


def sampling_of(asked: Sampled, room: int, seed: int) -> Sampling:
    return Sampling(
        max_new_tokens=room,
        temperature=asked.temperature or 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        seed=seed,
    )


def _room(serving: Serving, served: Served, ids: Sequence[int], most: int | None) -> int:
    """Tokens that the answer may have. Raises Problem: the prompt, or what is asked for, is too long."""
    limit, longest = context(served), serving.limits.max_tokens
    apart = served.tuned.base.family == "encoder-decoder"  # question and answer have contexts of their own
    free = limit if apart else limit - len(ids)
    if not ids:
        raise Problem(400, "The prompt is empty", None, "empty_prompt")
    if free < 1 or (apart and len(ids) > limit):
        problem = f"This model's maximum context length is {limit} tokens, and the prompt has {len(ids)}"
        raise Problem(400, problem, None, "context_length_exceeded")
    if most is not None and most > free:
        problem = f"This model's maximum context length is {limit} tokens; the prompt has {len(ids)}, and {most} are "
        raise Problem(400, problem + "asked for in the answer", "max_tokens", "context_length_exceeded")
    if most is not None and most > longest:
        raise Problem(400, f"max_tokens: this server writes {longest} at most", "max_tokens", "invalid_value")
    return most or min(longest, free)


def too_long(text: str | int, served: Served) -> None:
    """Raises Problem 400 for a text that cannot fit, before a tokenizer reads all of it."""
    characters = text if isinstance(text, int) else len(text)
    limit = context(served)
    if limit < 1 << 30 and characters > limit * CHARACTERS:
        problem = f"This model's maximum context length is {limit} tokens, and the request has {characters} characters"
        raise Problem(400, problem, None, "context_length_exceeded")


CHARACTERS = 64
"""Characters that a token may stand for, generously."""


def model_answer(served: Served, kind: str, prefix: str) -> dict[str, Any]:
    """What every answer begins with. ``system_fingerprint`` tells which run answered under this name."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.path.name,
    }
