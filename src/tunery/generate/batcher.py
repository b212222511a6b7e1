"""A running batch over one model: requests are added at any time, each step gives every row a token.

What a request gets follows from its prompt, its settings and its adapter, not from what else runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tunery.errors import TuneryError
from tunery.generate import decoding
from tunery.generate.sampling import Sampling, Token, choose, generator, tell

Reason = Literal["stop", "length", "cancelled", "error"]


@dataclass(eq=False, slots=True)
class Request:
    """One prompt to answer."""

    prompt: Sequence[int]
    sampling: Sampling
    stop_ids: Collection[int] = ()
    logprobs: int | None = None
    """How many of the most probable tokens to name beside each token; None: no probabilities."""
    stream: int = 0
    """Tells apart requests of one seed: equal prompts, seeds and streams give equal texts."""
    adapter: str | None = None
    """For a model that computes each row with an adapter of its own."""
    read: list[int] = field(default_factory=list)
    """What the decoder has read and written; filled in when the request begins."""
    written: int = 0
    random: torch.Generator | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a request in a step: a token, its end, or both."""

    request: Request
    token: Token | None
    end: Reason | None = None
    problem: str = ""


class Batcher:
    """Requests over one model, which must be in evaluation mode.

    Args:
        most: rows at a time.
        columns: tokens of prompts that are read in a step, so that running rows wait for no long prompt; None: all.
        arrange: told the adapter of each row before the model computes them.
        isolate: an error ends the requests it belongs to, instead of being raised.
        memory: bytes for keys and values; requests for which there would not be enough wait until others have ended.
    """

    def __init__(
        self,
        model: Any,
        most: int,
        columns: int | None = None,
        arrange: Callable[[Sequence[str | None]], None] | None = None,
        isolate: bool = False,
        memory: int | None = None,
    ) -> None:
        self.model, self.most, self.columns, self.isolate = model, most, columns, isolate
        self.arrange = arrange
        self.device = next(model.parameters()).device
        self.longest = decoding.positions(model.config)
        self.cells = memory // decoding.token_bytes(model) if memory is not None else None
        """Rows times columns that keys and values may take."""
        self.open = decoding.open_to(model.config)
        self.waiting: deque[Request] = deque()
        self.reading: list[Request | None] = []
        """The group whose prompts are being read; None where one was cancelled."""
        self.rows: list[Request] = []
        self._alone: set[Request] = set()
        """To be read alone: they were in a group that failed."""
        self._prompts: decoding.Reading | None = None
        self._state: decoding.Open | decoding.Closed | None = None

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.reading or self.waiting)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    @torch.inference_mode()
    def cancel(self, request: Request) -> bool:
        """Forget a request at once → whether it was there."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.reading:
            self.reading = [None if one is request else one for one in self.reading]
            if not any(self.reading):
                self.reading, self._prompts = [], None
        elif request in self.rows:
            self._keep([row for row, one in enumerate(self.rows) if one is not request])
        else:
            return False
        self._alone.discard(request)
        return True

    def clear(self) -> list[Request]:
        """Forget everything → the requests that were there."""
        found = [*self.rows, *(one for one in self.reading if one), *self.waiting]
        self.waiting.clear()
        self.reading, self.rows, self._prompts, self._state = [], [], None, None
        self._alone.clear()
        return found

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One token for each running row; then prompts are read, and the first token of those that were read whole."""
        events = self._guarded(self._write, True) if self.rows else []
        if not self.reading:
            events += self._begin()
        if self.reading:
            events += self._guarded(self._read, False)
        return events

    # ------------------------------------------------------------------------------------------- parts

    def _guarded(self, work: Callable[[], list[Event]], writing: bool) -> list[Event]:
        try:
            return work()
        except Exception as error:  # out of memory, or a request that the model cannot compute
            if not self.isolate:
                raise
            writing = writing or not self.reading
            return self._failed([one for one in (self.rows if writing else self.reading) if one], writing, error)

    def _failed(self, requests: list[Request], writing: bool, error: Exception) -> list[Event]:
        if writing:
            self.rows, self._state = [], None
        else:
            self.reading, self._prompts = [], None
            if len(requests) > 1:  # one of them may be at fault: each is read alone
                self._alone.update(requests)
                self.waiting.extendleft(reversed(requests))
                return []
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        problem = error.problem if isinstance(error, TuneryError) else f"{type(error).__name__}: {error}"
        self._alone.difference_update(requests)
        return [Event(one, None, "error", problem.strip().split("\n")[0]) for one in requests]

    def _begin(self) -> list[Event]:
        """Take waiting requests into the group that is read next → those that end before they begin."""
        events = []
        room = self.most - len(self.rows)
        if not self.open and self.rows:
            room = 0
        group: list[Request] = []
        while self.waiting and len(group) < room:
            request = self.waiting[0]
            if request.sampling.max_new_tokens < 1:
                events.append(Event(self.waiting.popleft(), None, "length"))
                continue
            longest = max(len(one.prompt) for one in [*group, request])
            if group and (request in self._alone or self._too_much(longest * (len(group) + 1))):
                break
            if (group or self.rows) and self._too_large([*self.rows, *group, request]):
                break
            group.append(self.waiting.popleft())
            if request in self._alone:
                self._alone.discard(request)
                break
        self.reading = list(group)
        return events

    def _too_much(self, tokens: int) -> bool:
        return self.columns is not None and self.open and tokens > self.columns

    def _too_large(self, requests: Sequence[Request]) -> bool:
        """Whether keys and values of all could outgrow their memory, were the answers as long as they may be."""
        columns = max(min(len(one.prompt) + one.sampling.max_new_tokens, self.longest) for one in requests)
        return self.cells is not None and columns * len(requests) > self.cells

    def _read(self) -> list[Event]:
        """Read some of the group's prompts; when they are read, choose first tokens and let the rows join."""
        prompts = [one.prompt if one else [0] for one in self.reading]
        for one in self.reading:
            if one and not one.read:
                one.read = decoding.start_ids(self.model.config, one.prompt)
                one.random = generator(one.sampling, one.stream, self.device)
        self._arrange(self.reading)
        if not self.open:
            self._state = decoding.Closed(self.model, prompts, self.device)
            self.rows, self.reading = [one for one in self.reading if one], []
            return self._write()
        if self._prompts is None:
            self._prompts = decoding.Reading(self.model, prompts, self.device)
        logits = self._prompts.read(max(self.columns // len(prompts), 1) if self.columns else 1 << 60)
        if logits is None:
            return []
        chosen, events, going = self._choose(logits, self.reading)
        if going:
            if not isinstance(self._state, decoding.Open):
                self._state = decoding.Open(self.model, self.most, self.device)
            self._state.join(self._prompts, going, [chosen[row] for row in going])
            self.rows += [one for row in going if (one := self.reading[row])]
        self.reading, self._prompts = [], None
        return events

    def _write(self) -> list[Event]:
        """The next token of each row; rows that end leave."""
        assert self._state is not None
        self._arrange(self.rows)
        chosen, events, going = self._choose(self._state.logits(), self.rows)
        order = self._keep(going) if len(going) < len(self.rows) else going
        if order:
            self._state.write([chosen[row] for row in order])
        return events

    def _arrange(self, requests: Sequence[Request | None]) -> None:
        if self.arrange is not None:
            self.arrange([one.adapter if one else None for one in requests])

    def _keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with these rows → them in their new order: the last ones fill the gaps, so that little is copied."""
        gone = set(range(len(self.rows))) - set(rows)
        order = list(range(len(self.rows)))
        for row in sorted(gone, reverse=True):
            order[row] = order[-1]
            order.pop()
        self.rows = [self.rows[row] for row in order]
        if not order:
            self._state = None
        elif self._state is not None:
            self._state.keep(order)
        return order

    def _choose(self, logits: Tensor, requests: Sequence[Request | None]) -> tuple[list[int], list[Event], list[int]]:
        """→ the next token of each row, what happened, and the rows that go on. logits: [rows, vocabulary], fp32."""
        chosen: list[int] = logits.argmax(-1).tolist()
        events, going = [], []
        for row, one in enumerate(requests):
            if one is None:
                continue
            if one.random is not None or one.sampling.repetition_penalty != 1.0:
                chosen[row] = choose(logits[row], one.sampling, one.read, one.random)
            token = chosen[row]
            if token in one.stop_ids:
                events.append(Event(one, None, "stop"))
                continue
            one.read.append(token)
            one.written += 1
            full = one.written >= one.sampling.max_new_tokens or len(one.read) > self.longest
            events.append(Event(one, tell(logits[row], token, one.logprobs), "length" if full else None))
            if not full:
                going.append(row)
        return chosen, events, going
