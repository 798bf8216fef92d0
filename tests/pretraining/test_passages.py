from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertsmith.pretraining.passages import PASSAGE_TOKENS, Passages, cut_passages
from tests.pretraining.fake_store import FakeStore, random_store


def test_passages_cover_every_sentence_once() -> None:
    store = random_store(31, most_sentences=200)
    passages = cut_passages(store, np.arange(31), at_most=300)
    assert len(passages) > 60
    seen: list[tuple[int, int]] = []
    for (document, first, end), tokens in zip(passages.rows(np.arange(len(passages))), passages.tokens, strict=True):
        assert tokens == store.lengths[document][first:end].sum()
        assert 0 < tokens <= 300 + 19
        seen += [(int(document), sentence) for sentence in range(first, end)]
    assert sorted(seen) == [(d, s) for d in range(31) for s in range(len(store.lengths[d]))]
    assert passages.num_tokens == store.num_tokens


def test_pieces_of_a_long_document_are_even() -> None:
    store = FakeStore([[10] * 2000, [4]])
    passages = cut_passages(store, np.arange(2))
    assert sorted(passages.tokens.tolist()) == [4, 6660, 6670, 6670]
    assert max(passages.tokens) <= PASSAGE_TOKENS


def test_a_sentence_is_never_cut_here() -> None:
    store = FakeStore([[1, 50_000, 1, 1], [4]])
    passages = cut_passages(store, np.arange(2), at_most=100)
    assert sum(passages.tokens) == store.num_tokens
    assert max(passages.tokens) >= 50_000


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60), st.data())
def test_no_window_is_empty(tokens: list[int], data: st.DataObject) -> None:
    number = data.draw(st.integers(1, len(tokens)))
    zeros = np.zeros(len(tokens), dtype=np.int32)
    passages = Passages(zeros, zeros, zeros, np.array(tokens, dtype=np.int32), sum(tokens))
    borders = passages.borders(np.arange(len(tokens)), number)
    assert len(borders) == number + 1
    assert (borders[0], borders[-1]) == (0, len(tokens))
    assert (np.diff(borders) > 0).all()


def test_windows_are_even() -> None:
    tokens = np.random.default_rng(0).integers(1, 8000, 5000).astype(np.int32)
    zeros = np.zeros(5000, dtype=np.int32)
    passages = Passages(zeros, zeros, zeros, tokens, int(tokens.sum()))
    order = passages.shuffled(np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(5000))
    borders = passages.borders(order, 10)
    sums = np.add.reduceat(tokens[order], borders[:-1])
    assert sums == pytest.approx(sums.mean(), abs=8000)
