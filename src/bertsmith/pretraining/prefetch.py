"""Batches prepared ahead in a thread, in order."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

# How soon a thread that waits for room in the queue notices that the block was left.
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Failed:
    error: BaseException


@dataclass(frozen=True)
class _Ended:
    pass


@contextlib.contextmanager
def prefetched(
    make: Callable[[int], Item], start: int, stop: int | None = None, ahead: int = 8
) -> Iterator[Iterator[Item]]:
    """Yield an iterator over ``make(start)``, ``make(start + 1)``, ..., made ahead in one thread.

    An exception in ``make`` is raised where its item is taken. However the block is left, the thread ends with
    it (after the item that it is making).

    Args:
        make: what is done for a number.
        start: first number.
        stop: the number after the last; endless, if not given.
        ahead: items kept ready. Batches are small, and several of them bridge the time that planning the
            next window takes.
    """
    made: queue.Queue[Item | _Failed | _Ended] = queue.Queue(maxsize=ahead)
    over = threading.Event()

    def put(item: Item | _Failed | _Ended) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=_POLL_SECONDS)
                return

    def work() -> None:
        try:
            for number in itertools.count(start) if stop is None else range(start, stop):
                if over.is_set():
                    return
                put(make(number))
            put(_Ended())
        except BaseException as error:  # handed to the taker
            put(_Failed(error))

    def items() -> Iterator[Item]:
        while True:
            item = made.get()
            if isinstance(item, _Ended):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        over.set()
        thread.join()
