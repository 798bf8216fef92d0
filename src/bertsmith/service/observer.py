"""Sees every request go by: counts it, says a line about it without its texts, and answers for what fails."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertsmith.service.metrics import Metrics
from bertsmith.service.problems import ProblemError, answer
from bertsmith.service.service import Noted

_WATCHMEN = ("/health", "/ready", "/metrics")
"""Asked for all the time; no line when all is well."""


def print_line(line: str) -> None:
    """Print a line on standard error, with the time."""
    print(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {line}", file=sys.stderr, flush=True)


class Observer:
    """The outermost layer of an application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, say: Callable[[str], None] | None, warn: Callable[[str], None]):
        self._app, self._metrics, self._say, self._warn = app, metrics, say, warn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = scope["bertsmith"] = Noted()
        status = 0
        begun = time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        problem = None
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            problem = ProblemError(503, "the service ended before this was done")
        except Exception as error:
            self._warn(_where(error))
            problem = ProblemError(500, "something failed here; the service's log says where")
        try:
            if problem and not status:
                await answer(problem, scope)(scope, receive, sending)
        finally:
            self._record(scope, notes, status, time.perf_counter() - begun)

    def _record(self, scope: Scope, notes: Noted, status: int, seconds: float) -> None:
        # The address as it is declared: what a client writes there may be anything.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, notes.model, str(status)).inc()
        self._metrics.seconds.labels(route, notes.model).observe(seconds)
        if notes.model:
            self._metrics.texts.labels(notes.model).inc(notes.texts)
        if self._say and not (route in _WATCHMEN and status < 400):
            about = f" {notes.model}: {notes.texts} texts, {notes.tokens} tokens" if notes.model else ""
            self._say(f"{status} {scope['method']} {route}{about}, {1000 * seconds:.1f} ms")


def _where(error: BaseException) -> str:
    """Return an error without its message, which may hold a text, and the lines of code that led to it."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)
    return f"failed: {type(error).__name__} in {places}"
