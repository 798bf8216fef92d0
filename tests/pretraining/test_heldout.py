from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.pretraining.heldout import evaluation_batches, held_out_documents
from bertsmith.pretraining.masking import Masking
from tests.pretraining.fake_store import FakeStore, random_store


def test_split_is_fixed_by_the_seed() -> None:
    store = random_store(301)
    train, held_out = held_out_documents(store, 0.1, seed=3)
    again = held_out_documents(random_store(301), 0.1, seed=3)
    assert train.tolist() == again[0].tolist()
    assert held_out.tolist() == again[1].tolist()
    assert held_out.tolist() != held_out_documents(store, 0.1, seed=4)[1].tolist()
    assert sorted([*train, *held_out]) == list(range(301))
    assert store.document_tokens[held_out].sum() / store.num_tokens == pytest.approx(0.1, abs=0.003)


def test_share_is_of_tokens_where_documents_differ_in_size() -> None:
    sizes = [100_000, 70_000, 90_000] + [1000 * n for n in range(1, 42)]
    store = FakeStore([[size // 100] * 100 for size in sizes])
    for seed in range(20):
        _, held_out = held_out_documents(store, 0.02, seed)
        share = store.document_tokens[held_out].sum() / store.num_tokens
        assert len(held_out) >= 2
        assert 0.005 < share <= 0.021


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.49])
@pytest.mark.parametrize("number", [4, 5, 9, 40])
def test_something_is_held_out_and_two_documents_stay(number: int, share: float) -> None:
    train, held_out = held_out_documents(FakeStore([[7, 8]] * number), share, seed=0)
    assert len(held_out) >= 1
    assert len(train) >= 2
    assert len(held_out) <= max(2, share * number)
    assert not set(train) & set(held_out)


def test_a_second_document_only_where_it_is_cheap() -> None:
    assert len(held_out_documents(FakeStore([[50]] * 6), 0.01, seed=0)[1]) == 1
    assert len(held_out_documents(FakeStore([[50]] * 30), 0.01, seed=0)[1]) == 2


def test_too_few_documents() -> None:
    with pytest.raises(InputError, match=r"has 3 document\(s\) with text; pre-training needs at least 4.*blank-line"):
        held_out_documents(FakeStore([[3], [4], [], [5, 6]]), 0.1, seed=0)


def evaluation(store: FakeStore, held_out: np.ndarray, **changes: Any) -> list[Batch]:
    settings = {"max_length": 43, "instances": 57, "seed": 2, "max_tokens": 500} | changes
    return evaluation_batches(store, held_out, **settings)


def sequences(batches: list[Batch]) -> list[tuple[list[int], list[int], int]]:
    """Ids, labels of masked tokens and class of every sequence."""
    found = []
    for batch in batches:
        assert batch.labels is not None
        assert batch.masked_positions is not None
        assert batch.masked_labels is not None
        starts = batch.sequence_starts.tolist()
        for n in range(batch.num_sequences):
            inside = (batch.masked_positions >= starts[n]) & (batch.masked_positions < starts[n + 1])
            ids = batch.token_ids[starts[n] : starts[n + 1]].tolist()
            found.append((ids, batch.masked_labels[inside].tolist(), int(batch.labels[n])))
    return found


def test_evaluation_is_fixed_and_independent_of_batch_size() -> None:
    store = random_store(101)
    held_out = np.arange(0, 101, 5)
    batches = evaluation(store, held_out)
    assert all(b.num_tokens <= 500 for b in batches)
    whole = sequences(batches)
    assert len(whole) == 57
    assert {label for *_, label in whole} == {0, 1}
    assert sequences(evaluation(store, held_out)) == whole
    assert sequences(evaluation(store, held_out, max_tokens=90)) == whole
    assert sequences(evaluation(store, held_out, seed=3)) != whole
    assert sequences(evaluation(store, held_out, masking=Masking("word"))) != whole


def test_evaluation_uses_held_out_text_only() -> None:
    store = random_store(101)
    held_out = np.arange(0, 101, 5)
    for batch in evaluation(store, held_out):
        ids = batch.token_ids.clone()
        ids[batch.masked_positions] = batch.masked_labels
        documents = {store.document_of(i) for i in ids.tolist() if i >= 7}
        assert documents <= set(held_out.tolist())


def test_little_held_out_text_is_passed_over_again() -> None:
    store = random_store(40)
    few = evaluation(store, np.array([3]))
    number = sum(b.num_sequences for b in few)
    once = evaluation_batches(store, np.array([3]), max_length=43, instances=1, seed=2)
    assert sum(b.num_sequences for b in once) == 1
    assert 8 <= number <= 57


def test_evaluation_plans_no_more_text_than_it_needs() -> None:
    store = random_store(4000)
    store.calls = 0
    evaluation(store, np.arange(4000), instances=20)
    assert store.calls < 400
