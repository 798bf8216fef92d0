"""Who is served next: the work of many requests, an item each in turn, in batches of a token budget."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

_MEMORY = 0.9
"""How much of what is known of the speed stays when a batch is done."""

_LONGEST_RETRY = 60


class Work(Protocol):
    """What a request wants computed, in items that may be computed apart."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each item."""

    def batch(self, numbers: Sequence[int]) -> Any:
        """Return some items as the lane takes them."""


@dataclass(frozen=True, eq=False)
class Lane:
    """A network; only items for the same one share a batch.

    Attributes:
        name: of the model.
        run: takes what ``Work.batch`` gave for each of several requests, and returns one result an item for each.
    """

    name: str
    run: Callable[[Sequence[Any]], Sequence[Sequence[Any]]]


@dataclass(eq=False)
class Job:
    """A request's work on its way.

    Attributes:
        lane: who does it.
        work: the items.
        lengths: their tokens.
        arrived: when, on the monotonic clock.
        done: the results, one an item, once all are there.
        given: items that were given to a worker; they go in their order.
        waiting: tokens of the others.
        results: those that are there.
    """

    lane: Lane
    work: Work
    lengths: Sequence[int]
    arrived: float
    done: Future[list[Any]] = field(default_factory=Future)
    given: int = 0
    waiting: int = 0
    results: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """A batch: some items of each of several jobs of one lane.

    Attributes:
        lane: who does it.
        parts: the jobs, with the numbers of their items.
        tokens: in all of them.
    """

    lane: Lane
    parts: list[tuple[Job, list[int]]]
    tokens: int


class OverloadedError(Exception):
    """The queue is full.

    Attributes:
        retry_after: seconds until there should be room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class Turns:
    """A bounded queue that any threads may fill and empty.

    A batch takes one item of every waiting job of a lane, then another one of each, and so on until the budget is
    spent. Who got something goes to the end of the queue. So a long request and short ones share every batch, and
    nobody waits for more than the batch that is being computed and those who came before.

    What stands before a newcomer are therefore not all tokens of the others, but of each about as many as the newcomer
    has. So a job counts for at most one batch in the bound of the queue, and a huge one does not shut others out.

    Args:
        max_tokens: the budget of a batch; a longer item is a batch of its own.
        max_wait: seconds that a job waits for others to share its batch, if these do not fill one.
        max_waiting: tokens in the queue, of each job at most ``max_tokens``, from which on jobs are refused.

    Attributes:
        waiting_tokens: tokens in the queue.
    """

    def __init__(self, max_tokens: int, max_wait: float, max_waiting: int) -> None:
        self._max_tokens, self._max_wait, self._max_waiting = max_tokens, max_wait, max_waiting
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._tokens: dict[Lane, int] = defaultdict(int)
        self.waiting_tokens = self._crowd = 0
        self._speed = 0.0
        self._closed = False

    @property
    def waiting_jobs(self) -> int:
        """Jobs in the queue; those whose items are all being computed are no longer in it."""
        return len(self._jobs)

    def check_room(self) -> None:
        """Do nothing while there is room for a job.

        Raises:
            OverloadedError: there is none.
        """
        if self._crowd >= self._max_waiting:
            raise OverloadedError(self.retry_after())

    def retry_after(self) -> int:
        """Return in how many seconds half of the queue should be done, at the speed of the last batches."""
        seconds = self._crowd / 2 / self._speed if self._speed else 1.0
        return min(max(math.ceil(seconds), 1), _LONGEST_RETRY)

    def add(self, lane: Lane, work: Work) -> Job:
        """Put work into the queue.

        Raises:
            OverloadedError: the queue is full.
            RuntimeError: it was closed.
        """
        job = Job(lane, work, work.lengths, time.monotonic())
        # From now on only a worker may end it.
        job.done.set_running_or_notify_cancel()
        with self._changed:
            if self._closed:
                raise RuntimeError("the service has ended")
            self.check_room()
            if not job.lengths:
                job.done.set_result([])
                return job
            self._jobs.append(job)
            self._wait_for(job, sum(job.lengths))
            self._changed.notify()
        return job

    def leave(self, job: Job) -> None:
        """Take a job out of the queue; what is being computed of it comes to nothing."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
                self._wait_for(job, 0)

    def take(self) -> Turn | None:
        """Wait for work and return a batch; None when the queue was closed and is empty."""
        with self._changed:
            while True:
                if self._jobs:
                    first = self._jobs[0]
                    left = first.arrived + self._max_wait - time.monotonic()
                    if self._closed or left <= 0 or first.given or self._tokens[first.lane] >= self._max_tokens:
                        return self._fill(first.lane)
                    self._changed.wait(left)
                elif self._closed:
                    return None
                else:
                    self._changed.wait()

    def _fill(self, lane: Lane) -> Turn:
        room = self._max_tokens
        chosen: dict[Job, list[int]] = {}
        candidates = [job for job in self._jobs if job.lane is lane]
        while candidates:
            still = []
            for job in candidates:
                length = job.lengths[job.given]
                if chosen and length > room:
                    continue
                chosen.setdefault(job, []).append(job.given)
                job.given += 1
                self._wait_for(job, job.waiting - length)
                room -= length
                if job.given < len(job.lengths):
                    still.append(job)
            candidates = still
        rest = [job for job in chosen if job.given < len(job.lengths)]
        self._jobs = deque([*(job for job in self._jobs if job not in chosen), *rest])
        if self._jobs:
            self._changed.notify()
        return Turn(lane, list(chosen.items()), self._max_tokens - room)

    def finish(self, turn: Turn, results: Sequence[Sequence[Any] | Exception], seconds: float) -> None:
        """Hand over what became of a batch: for each of its parts one result an item, or why there is none."""
        for (job, numbers), found in zip(turn.parts, results, strict=True):
            with self._changed:
                if not isinstance(found, Exception):
                    job.results.update(zip(numbers, found, strict=True))
                    if len(job.results) == len(job.lengths):
                        job.done.set_result([job.results[number] for number in range(len(job.lengths))])
                elif not job.done.done():
                    self.leave(job)
                    job.done.set_exception(found)
        now = turn.tokens / max(seconds, 1e-9)
        self._speed = _MEMORY * self._speed + (1 - _MEMORY) * now if self._speed else now

    def _wait_for(self, job: Job, tokens: int) -> None:
        """Set how many tokens of a job wait, and the sums that these are part of."""
        self._tokens[job.lane] += tokens - job.waiting
        self.waiting_tokens += tokens - job.waiting
        self._crowd += min(tokens, self._max_tokens) - min(job.waiting, self._max_tokens)
        job.waiting = tokens

    def close(self) -> None:
        """Take no more jobs; those that are here are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
