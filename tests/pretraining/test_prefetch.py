from __future__ import annotations

import itertools
import threading
import time

import pytest

from bertsmith.pretraining.prefetch import prefetched


def alive() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "prefetch"]


def test_items_come_in_order() -> None:
    with prefetched(lambda n: n * n, 3, 9, ahead=2) as items:
        assert list(items) == [9, 16, 25, 36, 49, 64]
    assert not alive()


def test_nothing_to_make() -> None:
    with prefetched(str, 4, 4) as items:
        assert list(items) == []


def test_endless_and_left_early() -> None:
    with prefetched(lambda n: n, 7) as items:
        assert list(itertools.islice(items, 30)) == list(range(7, 37))
    assert not alive()


def test_works_ahead_but_not_further_than_asked() -> None:
    made: list[int] = []
    with prefetched(lambda n: made.append(n) or n, 0, ahead=3) as items:  # type: ignore[func-returns-value]
        next(items)
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        # One taken, three in the queue, one in hand.
        assert made == [0, 1, 2, 3, 4]


def test_an_exception_comes_where_its_item_would() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("item 2")
        return number

    with prefetched(make, 0, 5) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(ValueError, match="item 2"):
            next(items)
    assert not alive()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_the_block_ends_the_thread(error: type[BaseException]) -> None:
    def leave() -> None:
        with prefetched(lambda n: n, 0, ahead=1) as items:
            next(items)
            raise error

    with pytest.raises(error):
        leave()
    assert not alive()
