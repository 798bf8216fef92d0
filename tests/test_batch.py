from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.batch import by_token_budget, join, pack


def test_pack_lays_sequences_end_to_end() -> None:
    batch = pack(
        [[7, 8, 9], np.array([5], dtype=np.uint16), [1, 2]], segment_ids=[[0, 0, 1], [0], [0, 1]], labels=[2, 0, 1]
    )
    assert batch.token_ids.tolist() == [7, 8, 9, 5, 1, 2]
    assert batch.segment_ids.tolist() == [0, 0, 1, 0, 0, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.sequence_starts.tolist() == [0, 3, 4, 6]
    assert (batch.num_sequences, batch.num_tokens, batch.max_length) == (3, 6, 3)
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 0, 1]
    assert batch.masked_positions is None
    assert {t.dtype for t in (batch.token_ids, batch.segment_ids, batch.position_ids, batch.sequence_starts)} == {
        torch.int64
    }


def test_pack_without_segments_is_all_a() -> None:
    batch = pack([[4, 5], [6]])
    assert batch.segment_ids.tolist() == [0, 0, 0]
    assert batch.labels is None


@pytest.mark.parametrize("sequences", [[], [[1], []]])
def test_pack_refuses_nothing(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        pack(sequences)


def test_pack_refuses_what_does_not_fit_together() -> None:
    # The totals agree, the sequences do not.
    with pytest.raises(ValueError, match="segment ids"):
        pack([[1, 2], [3]], segment_ids=[[0], [0, 1]])
    with pytest.raises(ValueError, match="2 sequences but 1 labels"):
        pack([[1, 2], [3]], labels=[0])


def test_joined_batches_are_those_of_all_their_sequences() -> None:
    sequences, segments = [[4, 5, 6], [7, 8], [9], [3, 2]], [[0, 0, 1], [0, 0], [0], [1, 1]]
    parts = [pack(sequences[:2], segments[:2], labels=[1, 0]), pack(sequences[2:3]), pack(sequences[3:], segments[3:])]
    parts[0] = replace(parts[0], masked_positions=torch.tensor([1, 3]))
    parts[2] = replace(parts[2], masked_positions=torch.tensor([0]))
    joined, whole = join(parts), pack(sequences, segments)
    for name in ("token_ids", "segment_ids", "position_ids", "sequence_starts"):
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist(), name
    assert joined.max_length == whole.max_length
    assert joined.masked_positions is not None
    assert joined.token_ids[joined.masked_positions].tolist() == [5, 7, 3]
    assert joined.labels is None
    assert join(parts[1:2]).masked_positions is None


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    batch = pack([[1, 2], [3]], labels=[0, 1]).to("meta")
    assert batch.token_ids.device.type == batch.sequence_starts.device.type == "meta"
    assert batch.labels is not None
    assert batch.labels.device.type == "meta"
    assert batch.masked_labels is None
    assert batch.max_length == 2


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 50))
def test_token_budget_holds_and_everything_occurs_once(lengths: list[int], budget: int) -> None:
    batches = by_token_budget(lengths, budget)
    assert sorted(n for batch in batches for n in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[n] for n in batch) <= budget
    flat = [lengths[n] for batch in batches for n in batch]
    assert flat == sorted(flat, reverse=True)


def test_sequence_above_the_budget_stands_alone() -> None:
    assert by_token_budget([3, 99, 2, 3], 5) == [[1], [0], [3, 2]]
