"""Who is served next: turns, the budget, the bound of the queue, and what becomes of failures."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.service.turns import Job, Lane, OverloadedError, Turn, Turns
from bertsmith.service.workers import working


@dataclass(frozen=True)
class Items:
    """Work whose items are numbers of tokens; a batch is the name with them."""

    name: str
    lengths: list[int]

    def batch(self, numbers: Sequence[int]) -> list[tuple[str, int]]:
        return [(self.name, n) for n in numbers]


def echo(parts: Sequence[Any]) -> list[Any]:
    return [list(part) for part in parts]


LANE, OTHER = Lane("one", echo), Lane("other", echo)


def taken(turns: Turns) -> dict[str, list[int]]:
    turn = turns.take()
    assert turn is not None
    return {job.work.name: numbers for job, numbers in turn.parts}  # type: ignore[attr-defined]


def test_a_long_request_and_short_ones_share_every_batch() -> None:
    turns = Turns(max_tokens=20, max_wait=0, max_waiting=10_000)
    turns.add(LANE, Items("long", [5] * 9))
    assert taken(turns) == {"long": [0, 1, 2, 3]}
    turns.add(LANE, Items("short", [3]))
    turns.add(LANE, Items("middle", [4, 4]))
    # The short ones do not wait for the rest of the long one.
    assert taken(turns) == {"long": [4, 5], "short": [0], "middle": [0]}
    assert taken(turns) == {"long": [6, 7, 8], "middle": [1]}
    assert (turns.waiting_jobs, turns.waiting_tokens) == (0, 0)


def test_who_got_nothing_comes_first() -> None:
    turns = Turns(max_tokens=10, max_wait=0, max_waiting=10_000)
    for name in "abcde":
        turns.add(LANE, Items(name, [4, 4]))
    assert taken(turns) == {"a": [0], "b": [0]}
    assert taken(turns) == {"c": [0], "d": [0]}
    assert taken(turns) == {"e": [0], "a": [1]}


def test_an_item_above_the_budget_is_a_batch_of_its_own() -> None:
    turns = Turns(max_tokens=10, max_wait=0, max_waiting=10_000)
    turns.add(LANE, Items("a", [2]))
    turns.add(LANE, Items("huge", [99]))
    turns.add(LANE, Items("b", [2]))
    assert taken(turns) == {"a": [0], "b": [0]}
    assert taken(turns) == {"huge": [0]}


def test_lanes_take_turns() -> None:
    turns = Turns(max_tokens=4, max_wait=0, max_waiting=10_000)
    turns.add(LANE, Items("a", [4, 4]))
    turns.add(OTHER, Items("b", [4, 4]))
    assert [list(taken(turns)) for _ in range(4)] == [["a"], ["b"], ["a"], ["b"]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=1, max_size=9), st.integers(8, 40))
def test_every_item_has_its_turn_within_the_budget(requests: list[list[int]], budget: int) -> None:
    turns = Turns(budget, 0, 10_000)
    jobs = [turns.add((LANE, OTHER)[n % 2], Items(str(n), lengths)) for n, lengths in enumerate(requests)]
    turns.close()
    while (turn := turns.take()) is not None:
        assert turn.tokens == sum(job.lengths[n] for job, numbers in turn.parts for n in numbers)
        assert turn.tokens <= budget or sum(len(numbers) for _, numbers in turn.parts) == 1
        assert {job.lane for job, _ in turn.parts} == {turn.lane}
        turns.finish(turn, echo([job.work.batch(numbers) for job, numbers in turn.parts]), 0.1)
    for n, job in enumerate(jobs):
        assert job.done.result(0) == [(str(n), item) for item in range(len(requests[n]))]
    assert turns.waiting_tokens == turns._crowd == 0


def test_a_batch_waits_for_company_but_not_longer() -> None:
    turns = Turns(max_tokens=100, max_wait=60, max_waiting=10_000)
    turns.add(LANE, Items("a", [4]))
    threading.Timer(0.05, turns.add, (LANE, Items("b", [96]))).start()
    assert taken(turns) == {"a": [0], "b": [0]}  # it is full
    turns = Turns(max_tokens=100, max_wait=0.1, max_waiting=10_000)
    begun = time.monotonic()
    turns.add(LANE, Items("a", [4]))
    assert taken(turns) == {"a": [0]}
    assert 0.1 <= time.monotonic() - begun < 30


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    turns = Turns(max_tokens=10, max_wait=0, max_waiting=30)
    for name, lengths in (("a", [10, 10, 9]), ("b", [10, 10]), ("c", [9])):
        turns.add(LANE, Items(name, lengths))  # a job counts for one batch at most: there is room
    turns.add(LANE, Items("d", [10]))
    with pytest.raises(OverloadedError) as refused:
        turns.add(LANE, Items("e", [1]))
    assert refused.value.retry_after == 1
    assert turns.waiting_tokens == 68
    for _ in range(3):
        turn = turns.take()
        assert turn is not None
        turns.finish(turn, [["x"] for _ in turn.parts], seconds=turn.tokens / 2.5)
    assert turns.waiting_tokens == 39
    # What counts is 10 of each of a, b and d; half of that at 2.5 tokens a second.
    assert turns.retry_after() == 6
    with pytest.raises(OverloadedError):
        turns.check_room()
    assert taken(turns) == {"d": [0]}
    turns.check_room()


def test_who_leaves_is_not_computed() -> None:
    turns = Turns(max_tokens=10, max_wait=0, max_waiting=100)
    gone, stays = turns.add(LANE, Items("gone", [10, 10, 10])), turns.add(LANE, Items("stays", [10]))
    assert taken(turns) == {"gone": [0]}
    turns.leave(gone)
    turns.leave(gone)
    assert turns.waiting_tokens == 10
    assert taken(turns) == {"stays": [0]}
    turns.leave(stays)
    assert (turns.waiting_jobs, turns.waiting_tokens) == (0, 0)


def test_one_that_fails_does_not_spoil_the_others() -> None:
    def run(parts: Sequence[Any]) -> list[Any]:
        if any(name == "bad" for part in parts for name, _ in part):
            raise ZeroDivisionError
        return echo(parts)

    turns, lane = Turns(max_tokens=50, max_wait=0.05, max_waiting=1000), Lane("fragile", run)
    seen: list[Turn] = []
    jobs = [turns.add(lane, Items(name, [5] * 7)) for name in ("a", "bad", "b")]
    with working(turns, 2, 1, lambda turn, seconds: seen.append(turn)) as threads:
        assert jobs[0].done.result(60) == [("a", n) for n in range(7)]
        assert jobs[2].done.result(60) == [("b", n) for n in range(7)]
        with pytest.raises(ZeroDivisionError):
            jobs[1].done.result(60)
        again = turns.add(lane, Items("c", [1]))
        assert again.done.result(60) == [("c", 0)]
    assert not any(thread.is_alive() for thread in threads)
    assert sum(turn.tokens for turn in seen) <= 3 * 35 + 1
    with pytest.raises(RuntimeError, match="ended"):
        turns.add(lane, Items("late", [1]))


def test_the_end_waits_for_those_in_the_queue() -> None:
    def slow(parts: Sequence[Any]) -> list[Any]:
        time.sleep(0.02)
        return echo(parts)

    turns = Turns(max_tokens=5, max_wait=0, max_waiting=1000)
    with working(turns, 1, 1):
        jobs = [turns.add(Lane("slow", slow), Items(str(n), [5])) for n in range(5)]
    assert all(job.done.done() for job in jobs)


def test_many_threads_fill_and_empty_it() -> None:
    turns = Turns(max_tokens=64, max_wait=0.001, max_waiting=10**6)
    jobs: list[Job] = []

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for n in range(40):
            job = turns.add(draw.choice((LANE, OTHER)), Items(f"{seed}-{n}", draw.choices(range(1, 70), k=3)))
            if draw.random() < 0.2:
                turns.leave(job)
            else:
                jobs.append(job)

    with working(turns, 3, 1):
        clients = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    for job in jobs:
        assert job.done.result(0) == [(job.work.name, n) for n in range(3)]  # type: ignore[attr-defined]
    assert turns.waiting_tokens == turns._crowd == 0
