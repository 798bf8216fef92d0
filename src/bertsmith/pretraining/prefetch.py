"""Batches prepared ahead in a thread, in order."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


@contextlib.contextmanager
def prefetched(make: Callable[[int], Item], start: int, ahead: int = 2) -> Iterator[Iterator[Item]]:
    """Yield an endless iterator over ``make(start)``, ``make(start + 1)``, ..., made ahead in a thread.

    An exception in ``make`` is raised where its item is taken. The thread ends with the block.
    """
    made: queue.Queue[Item | BaseException] = queue.Queue(maxsize=ahead)
    over = threading.Event()

    def put(item: Item | BaseException) -> None:
        while not over.is_set():
            with contextlib.suppress(queue.Full):
                made.put(item, timeout=0.1)
                return

    def work() -> None:
        for number in itertools.count(start):
            if over.is_set():
                return
            try:
                put(make(number))
            except BaseException as error:  # handed to the taker
                put(error)
                return

    def items() -> Iterator[Item]:
        while True:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        over.set()
        thread.join()
