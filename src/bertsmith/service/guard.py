"""Who may come in: the name that is asked for, the key, how many at a time, how large."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bertsmith.errors import InputError
from bertsmith.serve_config import ServeSettings
from bertsmith.service.problems import ProblemError, answer, too_large
from bertsmith.service.service import Service

KEY_VARIABLE = "BERTSMITH_API_KEY"

_GUARDED = ("/v1/", "/metrics")
_LONGEST_READ = 30.0
"""Seconds in which a body has to come."""

_DRAINED, _LONGEST_DRAIN = 16, 5.0
"""Bounds of what is read of a refused body: times the largest one that is taken, and seconds."""


def read_keys(settings: ServeSettings) -> tuple[str, ...]:
    """Return the keys that are asked for: of the file, one a line, or of the environment; none if there are none.

    Raises:
        InputError: the file cannot be read or has no key, a key has characters that headers cannot hold, or others
            than this machine could come in without one.
    """
    path: Path | None = settings.api_key_file
    if path is not None:
        try:
            keys = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise InputError(f"cannot be read: {reason}", path=path) from None
        if not keys:
            raise InputError("holds no key; expected one a line", path=path)
    else:
        keys = tuple(key for key in [os.environ.get(KEY_VARIABLE, "").strip()] if key)
    for key in keys:
        if not re.fullmatch(r"[!-~]+", key):
            raise InputError(
                "a key has a space or another character that a header cannot hold; expected ASCII letters, digits "
                "and signs",
                path=path or KEY_VARIABLE,
            )
    if not keys and not settings.insecure and not is_loopback(settings.host):
        raise InputError(
            f"others could reach {settings.host} without a key; set {KEY_VARIABLE} or --api-key-file, or say --insecure"
        )
    return keys


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets requests through to an application, or answers them itself."""

    def __init__(self, app: ASGIApp, service: Service, keys: Sequence[str] = ()) -> None:
        self._app, self._service = app, service
        self._keys = [_digest(key.encode()) for key in keys]
        settings = service.settings
        own = {"127.0.0.1", "localhost", "[::1]"} if is_loopback(settings.host) else set()
        names = own | set(settings.allow_host or ())
        if names:
            names.add(f"[{settings.host}]" if ":" in settings.host else settings.host)
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        service = self._service
        is_work = scope["method"] == "POST"
        entered = False
        body = _Body(receive)
        try:
            self._check(scope["path"], headers)
            if is_work:
                if service.inside >= service.settings.max_requests:
                    raise ProblemError(
                        429,
                        f"{service.inside} requests are being answered, as many as may be at a time; try again",
                        headers={"Retry-After": str(service.turns.retry_after())},
                    )
                service.inside += 1
                entered = True
                service.metrics.inside.set(service.inside)
                receive = await body.whole(headers, service.settings.max_body)
            await self._app(scope, receive, send)
        except ProblemError as problem:
            if is_work and b"expect" not in headers:
                await body.drain(_DRAINED * service.settings.max_body)
            await answer(problem, scope)(scope, receive, send)
        finally:
            if entered:
                service.inside -= 1
                service.metrics.inside.set(service.inside)

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        # Another site's page could have its name point here; it would ask by that name.
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._names and re.sub(r":\d*$", "", host) not in self._names:
            raise ProblemError(403, "asked for by another name than this service's; --allow-host lets one in")
        if self._keys and path.startswith(_GUARDED) and not self._knows(headers):
            raise ProblemError(
                401,
                "no valid key; expected one in the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()
        seen = _digest(given)
        # All are compared, each in the same time wherever they differ.
        return sum(hmac.compare_digest(seen, key) for key in self._keys) > 0


class _Body:
    """A request's body on its way in."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._ended = receive, False

    async def _part(self) -> bytes:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def whole(self, headers: dict[bytes, bytes], limit: int) -> Receive:
        """Read it and return what gives it again, and after it what else comes.

        Raises:
            ProblemError: it is too large, or too slow.
        """
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > limit:
            raise too_large("bytes of a request", int(said), limit, "max_body")
        body = bytearray()
        try:
            async with asyncio.timeout(_LONGEST_READ):
                while not self._ended:
                    body += await self._part()
                    if len(body) > limit:
                        raise too_large("bytes of a request", len(body), limit, "max_body")
        except TimeoutError:
            # Those who send next to nothing must not keep others out.
            self._ended = True
            raise ProblemError(408, f"the body did not come within {_LONGEST_READ:g} s") from None
        ahead: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def again() -> Message:
            return ahead.pop() if ahead else await self._receive()

        return again

    async def drain(self, most: int) -> None:
        """Read it to its end, so that its sender comes to read the answer; not forever."""
        seen = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_DRAIN):
                while not self._ended and seen <= most:
                    seen += len(await self._part())


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
