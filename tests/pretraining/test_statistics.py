"""Counting on small stores, against counting written out."""

from collections import Counter

import numpy as np
import pytest

from bertsmith.pretraining.statistics import _cooccurrences, _positive_information, cooccurrence_embeddings, log_unigram
from bertsmith.text.store import TokenStore


def pairs_of(store: TokenStore, documents: list[int], window: int) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for document in documents:
        ids = [i for s in range(int(store.document_sentences[document])) for i in store.sentence(document, s).tolist()]
        for place, token in enumerate(ids):
            for other in ids[place + 1 : place + 1 + window]:
                found[token, other] += 1
                found[other, token] += 1
    return found


@pytest.mark.parametrize("window", [1, 4])
def test_neighbours_within_documents_are_counted(
    store: TokenStore, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = np.arange(3, 40)
    expected = pairs_of(store, documents.tolist(), window)
    for chunk in (10**6, 50):
        monkeypatch.setattr("bertsmith.pretraining.statistics._CHUNK", chunk)
        counts = _cooccurrences(store, documents, np.random.default_rng(0), window, at_most=10**9).tocoo()
        rows, columns = (values.tolist() for values in counts.coords)
        assert dict(zip(zip(rows, columns, strict=True), counts.data.tolist(), strict=True)) == expected


def test_no_more_documents_than_needed_are_counted(store: TokenStore) -> None:
    few = _cooccurrences(store, np.arange(60), np.random.default_rng(0), 4, at_most=100)
    assert 0 < few.sum() < 8 * 250  # a document has some 50 tokens


def test_information_is_positive_and_as_by_hand(store: TokenStore) -> None:
    counts = _cooccurrences(store, np.arange(40), np.random.default_rng(0), 2, at_most=10**9)
    information = _positive_information(counts).tocoo()
    assert information.data.min() > 0
    row, column = (int(values[0]) for values in information.coords)
    plain = counts.toarray()
    contexts = plain.sum(1) ** 0.75
    expected = np.log(plain[row, column] / plain[row].sum() / (contexts[column] / contexts.sum()))
    assert information.data[0] == pytest.approx(expected, rel=1e-4)


def test_tokens_with_like_neighbours_are_alike(store: TokenStore) -> None:
    vectors = cooccurrence_embeddings(store, np.arange(70), 11, np.random.default_rng(0))
    assert vectors.shape == (store.vocab_size, 11)
    assert vectors.dtype == np.float32
    known = vectors.any(1)
    assert not known[store.tokenizer.special_ids].any()
    assert np.square(vectors[known]).mean() == pytest.approx(1, rel=1e-3)
    again = cooccurrence_embeddings(store, np.arange(70), 11, np.random.default_rng(0))
    assert np.array_equal(vectors, again)

    def likeness(one: str, other: str) -> float:
        first, second = (vectors[store.tokenizer.tokens.index(token)] for token in (one, other))
        return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    # Verbs stand where verbs stand, adverbs where adverbs do.
    assert likeness("sees", "likes") > likeness("sees", "house") + 0.3
    assert likeness("어제", "자주") > likeness("어제", "house") + 0.1


def test_a_width_above_the_rank_leaves_columns_empty(store: TokenStore) -> None:
    vectors = cooccurrence_embeddings(store, np.arange(70), store.vocab_size + 5, np.random.default_rng(0))
    assert vectors.shape == (store.vocab_size, store.vocab_size + 5)
    assert not vectors[:, -6:].any()


def test_log_unigram_is_a_distribution_that_leaves_nothing_out() -> None:
    shares = np.exp(log_unigram(np.array([0, 3, 96])))
    assert shares == pytest.approx(np.array([1, 4, 97]) / 102)
