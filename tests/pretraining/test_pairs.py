from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.pretraining.pairs import (
    DOCUMENT_A,
    DOCUMENT_B,
    IS_NEXT,
    PLAN_COLUMNS,
    SKIP_A,
    SKIP_B,
    TAKE_A,
    TAKE_B,
    Instance,
    build_instance,
    cut_pairs,
    plan_passages,
    room_for_pair,
    sequence_lengths,
)
from tests.pretraining.fake_store import FakeStore, random_store


def plan_all(store: FakeStore, room: int, seed: int = 0, short_probability: float = 0.1) -> np.ndarray:
    passages = np.stack(
        [np.arange(store.num_documents), np.zeros(store.num_documents, int), store.document_sentences], axis=1
    )
    return plan_passages(
        store,
        passages,
        np.arange(store.num_documents),
        room=room,
        short_probability=short_probability,
        rng=np.random.default_rng(seed),
    )


def segments(instance: Instance) -> tuple[np.ndarray, np.ndarray]:
    ids, inside = instance.token_ids, instance.segment_ids
    assert ids[0] == 2
    assert ids[-1] == 3
    assert np.flatnonzero(ids == 3).tolist() == [np.flatnonzero(inside == 0)[-1], len(ids) - 1]
    return ids[inside == 0][1:-1], ids[inside == 1][:-1]


def test_instances_are_real_consecutive_sentences() -> None:
    store = random_store(31)
    room = 47
    begins, ends = store.sentence_starts(), store.sentence_ends()
    plan = plan_all(store, room)
    assert len(plan) > 100
    for row in plan:
        instance = build_instance(store, row)
        a, b = segments(instance)
        assert 2 <= len(a) + len(b) <= room
        for segment, document in ((a, instance.document_a), (b, instance.document_b)):
            assert len(segment) >= 1
            assert (np.diff(segment) == 1).all(), "a piece of running text"
            assert {store.document_of(i) for i in segment.tolist()} == {document}
            if len(a) + len(b) < room:
                assert int(segment[0]) in begins
                assert int(segment[-1]) in ends
        if instance.is_next:
            assert instance.document_a == instance.document_b
            assert b[0] > a[-1]
            if len(a) + len(b) < room:
                assert b[0] == a[-1] + 1, "B follows A at once"
        else:
            assert instance.document_a != instance.document_b


def test_text_is_used_in_order_and_unused_sentences_are_put_back() -> None:
    store = random_store(13, longest=9)
    plan = plan_all(store, 10_000, short_probability=1.0)  # nothing is cut
    at = int(store.document_starts[0])
    for row in plan:
        instance = build_instance(store, row)
        a, b = segments(instance)
        assert a[0] == at
        at = int((b if instance.is_next else a)[-1]) + 1
    assert at == store.document_starts[-1]


def test_half_of_the_pairs_are_random() -> None:
    store = FakeStore([[5] * 400] * 11)
    plan = plan_all(store, 40, short_probability=0.0)
    assert len(plan) > 500
    assert abs(plan[:, IS_NEXT].mean() - 0.5) < 3 * 0.5 / np.sqrt(len(plan))
    assert len(np.unique(plan[plan[:, IS_NEXT] == 0, DOCUMENT_B])) == 11


def test_documents_of_one_sentence_give_random_pairs_only() -> None:
    plan = plan_all(FakeStore([[5], [9], [3], [200]]), 20)
    first_three = plan[plan[:, DOCUMENT_A] < 3]
    assert len(first_three) == 3
    assert not first_three[:, IS_NEXT].any()


def test_target_lengths() -> None:
    store = FakeStore([[1] * 3000] * 2)
    full = sequence_lengths(plan_all(store, 50, short_probability=0.0)) - 3
    # One-token sentences reach a target exactly; only what is left at a document's end is shorter.
    assert (full == 50).mean() > 0.9
    short = plan_all(store, 50, short_probability=1.0)
    targets = (sequence_lengths(short) - 3)[short[:, IS_NEXT] == 1]
    assert targets.min() == 2
    assert targets.max() == 50
    assert abs(targets.mean() - 26) < 4 * 14.2 / np.sqrt(len(targets))
    mixed = sequence_lengths(plan_all(store, 50, short_probability=0.1)) - 3
    assert 0.03 < (mixed < 45).mean() < 0.3


def test_split_point_of_a_is_uniform() -> None:
    # Five sentences make a chunk; A is one to four of them.
    store = FakeStore([[1] * 20_000, [1]])
    plan = plan_all(store, 5, short_probability=0.0)
    counts = np.bincount(plan[plan[:, IS_NEXT] == 1, TAKE_A], minlength=5)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx(counts[1:].mean(), abs=5 * np.sqrt(counts[1:].mean()))


def test_all_of_a_very_long_sentence_is_seen() -> None:
    store = FakeStore([[1000], [3, 4], [2, 700, 5]])
    seen = np.zeros(store.tokenizer.vocab_size, dtype=bool)
    next_pairs = 0
    for seed in range(9):
        for row in plan_all(store, 29, seed):
            instance = build_instance(store, row)
            a, b = segments(instance)
            assert len(a) + len(b) <= 29
            assert (np.diff(a) == 1).all()
            assert (np.diff(b) == 1).all()
            assert {store.document_of(i) for i in b.tolist()} == {instance.document_b}
            next_pairs += instance.is_next
            seen[a] = True
            if instance.is_next:
                seen[b] = True
    assert seen[7:].mean() > 0.995
    assert next_pairs > 20


def test_the_pair_that_is_too_short_for_two_segments_is_refused() -> None:
    assert room_for_pair(5) == 2
    with pytest.raises(InputError, match="max_length 4 is too short"):
        room_for_pair(4)


def test_shortest_sequences_work() -> None:
    store = random_store(9)
    for row in plan_all(store, 2, short_probability=0.5):
        a, b = segments(build_instance(store, row))
        assert (len(a), len(b)) == (1, 1)


def table(a: list[int], b: list[int]) -> np.ndarray:
    plan = np.zeros((len(a), PLAN_COLUMNS), dtype=np.int64)
    plan[:, TAKE_A], plan[:, TAKE_B] = a, b
    return plan


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20),
    st.integers(2, 50),
    st.integers(0, 99),
)
def test_cut_lengths_equal_cutting_one_at_a_time(lengths: list[tuple[int, int]], room: int, seed: int) -> None:
    plan = table([a for a, _ in lengths], [b for _, b in lengths])
    cut_pairs(plan, room, np.random.default_rng(seed))
    for row, (a, b) in zip(plan, lengths, strict=True):
        left_a, left_b = a, b
        while left_a + left_b > room:
            if left_a > left_b:
                left_a -= 1
            else:
                left_b -= 1
        assert (row[TAKE_A], row[TAKE_B]) == (left_a, left_b)
        assert 0 <= row[SKIP_A] <= a - left_a
        assert 0 <= row[SKIP_B] <= b - left_b


def test_cut_ends_are_chosen_by_a_fair_coin_for_each_token() -> None:
    number = 20_000
    plan = table([30] * number, [11] * number)
    cut_pairs(plan, 31, np.random.default_rng(1))
    front = plan[:, SKIP_A]
    assert (plan[:, TAKE_A] == 20).all()
    assert not plan[:, SKIP_B].any()
    # Binomial(10, 0.5): mean 5, variance 2.5.
    assert abs(front.mean() - 5) < 4 * np.sqrt(2.5 / number)
    assert abs(front.var() - 2.5) < 0.12
