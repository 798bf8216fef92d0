"""A service between HTTP and the models: limits, threads, and waiting for what was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from bertsmith.errors import nearest
from bertsmith.machine import cpu_quota
from bertsmith.serve_config import ServeSettings
from bertsmith.service.metrics import Metrics
from bertsmith.service.models import Ability, ServedModel
from bertsmith.service.problems import ProblemError, too_large
from bertsmith.service.turns import Lane, Turns, Work
from bertsmith.service.workers import working

Result = TypeVar("Result")

_HELPERS = 2
"""Threads for tokenising and writing answers."""

# Measured on a CPU (docs/log.md); for a GPU a guess.
_CPU_TOKENS, _GPU_TOKENS = 2048, 16_384
_CPU_WORKERS = 2
_BATCHES_WAITING = 16

_GONE = 499
"""Nobody reads this status; logs and counters show it, as those of other servers do."""


@dataclass
class Noted:
    """What a request turned out to be, for its line in the log and the counters.

    Attributes:
        model: its name, once it is known to be one.
        texts: how many.
        tokens: that the model computes for it.
    """

    model: str = ""
    texts: int = 0
    tokens: int = 0


def noted(request: Request) -> Noted:
    """Return the notes on a request."""
    found: Noted = request.scope["bertsmith"]
    return found


@dataclass
class Service:
    """Models, the queue before them, and what is allowed.

    Attributes:
        models: by name.
        settings: limits and keys.
        turns: the queue.
        metrics: what is counted.
        inside: requests that are being read, waiting or computed.
    """

    models: dict[str, ServedModel]
    settings: ServeSettings
    turns: Turns = field(init=False)
    metrics: Metrics = field(init=False)
    inside: int = 0
    _helpers: ThreadPoolExecutor = field(init=False)
    _workers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = self.settings
        budget = limits.max_batch_tokens or (_CPU_TOKENS if self._on_cpu else _GPU_TOKENS)
        self.turns = Turns(budget, limits.max_wait, limits.max_queue_tokens or _BATCHES_WAITING * budget)
        self.metrics = Metrics(self.turns)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let models compute while the block runs; its end waits for what is in the queue."""
        threads = self.settings.threads or cpu_quota()
        workers = self.settings.workers or (min(threads, _CPU_WORKERS) if self._on_cpu else 1)
        with contextlib.ExitStack() as stack:
            self._helpers = stack.enter_context(ThreadPoolExecutor(_HELPERS, thread_name_prefix="text"))
            self._workers = stack.enter_context(
                working(self.turns, workers, max(1, threads // workers), self.metrics.batch)
            )
            try:
                yield
            finally:
                # Answers are still sent while threads come to their end.
                await asyncio.to_thread(stack.pop_all().close)

    @property
    def _on_cpu(self) -> bool:
        return all(model.device.type == "cpu" for model in self.models.values())

    @property
    def is_ready(self) -> bool:
        """Whether all workers are alive."""
        return bool(self._workers) and all(thread.is_alive() for thread in self._workers)

    def model(self, name: str, ability: Ability, request: Request) -> ServedModel:
        """Return the model that a request names.

        Raises:
            ProblemError: there is none of this name, or it cannot do what is asked.
        """
        found = self.models.get(name)
        if found is None:
            raise ProblemError(
                404, f"no model {name!r} here.{nearest(name, self.models)} Models: {', '.join(self.models)}", "model"
            )
        noted(request).model = name
        if ability not in found.abilities:
            raise ProblemError(404, f"the model {name!r} cannot {ability}; it can: {', '.join(found.abilities)}")
        return found

    def admit(self, count: int, texts: Sequence[str], request: Request) -> None:
        """Check the size of what a request asks about, and that there is room for it.

        Args:
            count: how many answers it wants.
            texts: all of its texts, of whatever role.
            request: the request.

        Raises:
            ProblemError: there is nothing, too much, or a text is too long.
            OverloadedError: the queue is full.
        """
        limits = self.settings
        noted(request).texts = count
        if count == 0:
            raise ProblemError(422, "no texts; expected at least one")
        if count > limits.max_texts:
            raise too_large("texts in a request", count, limits.max_texts, "max_texts")
        longest = max(map(len, texts), default=0)
        if longest > limits.max_characters:
            raise too_large("characters of a text", longest, limits.max_characters, "max_characters")
        self.turns.check_room()

    async def in_thread(self, function: Callable[[], Result]) -> Result:
        """Return what a function gives, which works on texts meanwhile and leaves the event loop to others."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, function)

    async def computed(self, lane: Lane, work: Work, request: Request) -> list[Any]:
        """Return the results of work, one an item; when the client goes away its work leaves the queue.

        Raises:
            OverloadedError: the queue is full.
            ProblemError: the client has gone.
        """
        job = self.turns.add(lane, work)
        noted(request).tokens = sum(job.lengths)
        done = asyncio.wrap_future(job.done)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ProblemError(_GONE, "the client has gone")
            return done.result()
        finally:
            gone.cancel()
            self.turns.leave(job)

    async def answer(self, make: Callable[[], Any]) -> Response:
        """Return what a function makes as JSON; it is made and written off the event loop."""
        return Response(await self.in_thread(lambda: to_json(make())), media_type="application/json")


def to_json(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # A text of the request with half a character, which only an escape can say.
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
