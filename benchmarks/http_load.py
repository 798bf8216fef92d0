"""A load of HTTP requests: as many as a server takes, or as many as come, whatever it does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_PATIENCE = 60.0


@dataclass(frozen=True)
class Prepared:
    """A request as bytes, so that making it costs the load nothing.

    Attributes:
        data: head and body.
        tokens: of its texts.
    """

    data: bytes
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """What became of a load.

    Attributes:
        offered: requests a second that came; those of a closed load came as others were done.
        seconds: from the first request to the last answer.
        statuses: how often each status; 0 stands for no answer.
        requests_per_second: with status 200.
        tokens_per_second: the same.
        p50_ms, p99_ms: from the moment a request was due to its answer, of those with 200.
    """

    offered: float
    seconds: float
    statuses: dict[int, int]
    requests_per_second: float
    tokens_per_second: float
    p50_ms: float
    p99_ms: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class Client:
    """Connections to a server, kept open and used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: Prepared) -> tuple[int, bytes]:
        """Return status and body; status 0 if there was no answer."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._free:
                    # The server may have closed it meanwhile, as any client has to expect.
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        return await self._ask(request, *self._free.pop())
                return await self._ask(request, *await asyncio.open_connection("127.0.0.1", self._port))
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return 0, b""

    async def _ask(
        self, request: Prepared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[int, bytes]:
        try:
            writer.write(request.data)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(head[9:12]), body

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._free:
            writer.close()


async def closed_load(port: int, requests: Sequence[Prepared], at_once: int, seconds: float) -> Outcome:
    """Keep ``at_once`` requests on their way: what the server can do."""
    client, stream = Client(port), itertools.cycle(requests)
    found: list[tuple[int, int, float]] = []
    begun = time.perf_counter()

    async def keep_asking() -> None:
        while time.perf_counter() - begun < seconds:
            request, sent = next(stream), time.perf_counter()
            status, _ = await client.ask(request)
            found.append((status, request.tokens, time.perf_counter() - sent))

    await asyncio.gather(*(keep_asking() for _ in range(at_once)))
    client.close()
    taken = time.perf_counter() - begun
    return _outcome(found, len(found) / taken, taken)


async def open_load(port: int, requests: Sequence[Prepared], rate: float, seconds: float, seed: int = 0) -> Outcome:
    """Send ``rate`` requests a second at random moments (Poisson), answered or not: what users do."""
    client, stream, draw = Client(port), itertools.cycle(requests), random.Random(seed)
    found: list[tuple[int, int, float]] = []
    begun = time.perf_counter()

    async def ask(request: Prepared, due: float) -> None:
        status, _ = await client.ask(request)
        found.append((status, request.tokens, time.perf_counter() - due))

    tasks = []
    due = begun + draw.expovariate(rate)
    while due - begun < seconds:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.ensure_future(ask(next(stream), due)))
        due += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    client.close()
    return _outcome(found, rate, time.perf_counter() - begun)


async def one_by_one(port: int, requests: Sequence[Prepared], at_once: int) -> Counter[int]:
    """Send all requests, some at once; return how often each status came."""
    client, stream, statuses = Client(port), iter(requests), Counter[int]()

    async def go_on() -> None:
        for request in stream:
            statuses[(await client.ask(request))[0]] += 1

    await asyncio.gather(*(go_on() for _ in range(at_once)))
    client.close()
    return statuses


def _outcome(found: Sequence[tuple[int, int, float]], offered: float, seconds: float) -> Outcome:
    fine = [(tokens, taken) for status, tokens, taken in found if status == 200]
    times = [1000 * taken for _, taken in fine] or [float("nan")]
    return Outcome(
        offered,
        seconds,
        dict(sorted(Counter(status for status, _, _ in found).items())),
        len(fine) / seconds,
        sum(tokens for tokens, _ in fine) / seconds,
        float(np.percentile(times, 50)),
        float(np.percentile(times, 99)),
    )
