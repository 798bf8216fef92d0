"""The threads in which models compute."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bertsmith.service.turns import Job, Lane, Turn, Turns
from bertsmith.training.device import set_up_thread


@contextlib.contextmanager
def working(
    turns: Turns, workers: int, threads: int, seen: Callable[[Turn, float], None] = lambda turn, seconds: None
) -> Iterator[list[threading.Thread]]:
    """Compute batches in threads while the block runs; at its end those who wait are still served.

    Args:
        turns: where batches come from; closed at the end.
        workers: how many batches are computed side by side.
        threads: torch's, for each.
        seen: told of each batch and the seconds that it took.

    Yields:
        The threads.
    """
    started = [
        threading.Thread(target=_work, args=(turns, threads, seen), name=f"model-{number}", daemon=True)
        for number in range(workers)
    ]
    for thread in started:
        thread.start()
    try:
        yield started
    finally:
        turns.close()
        for thread in started:
            thread.join()


def _work(turns: Turns, threads: int, seen: Callable[[Turn, float], None]) -> None:
    set_up_thread(threads)
    while (turn := turns.take()) is not None:
        begun = time.perf_counter()
        results = _results(turn.lane, turn.parts)
        seconds = time.perf_counter() - begun
        turns.finish(turn, results, seconds)
        seen(turn, seconds)


def _results(lane: Lane, parts: Sequence[tuple[Job, list[int]]]) -> Sequence[Sequence[Any] | Exception]:
    """Return each part's results; if the batch fails, each alone is tried, so that one does not spoil the others."""
    try:
        return lane.run([job.work.batch(numbers) for job, numbers in parts])
    except Exception as error:
        return [error] if len(parts) == 1 else [_results(lane, [part])[0] for part in parts]
