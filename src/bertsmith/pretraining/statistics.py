"""What counting alone tells about a store's tokens: a start for the output bias and for the token embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bertsmith.text.store import TokenStore

if TYPE_CHECKING:
    import scipy.sparse

COUNTED_TOKENS = 20_000_000
"""Tokens that are counted, roughly, where there are more."""

# Tokens that are counted together at a time.
_CHUNK = 4_000_000
# Contexts' shares are raised to this power, which keeps rare contexts from dominating (Levy et al. 2015, section 3.2).
_SMOOTHING = 0.75


def log_unigram(token_counts: np.ndarray) -> np.ndarray:
    """Return (V,) float32, the log of each token's share, as if each had been seen once more than ``token_counts``."""
    seen = token_counts + 1
    shares: np.ndarray = np.log(seen / seen.sum()).astype(np.float32)
    return shares


def cooccurrence_embeddings(
    store: TokenStore,
    documents: np.ndarray,
    width: int,
    rng: np.random.Generator,
    *,
    window: int = 4,
    at_most: int = COUNTED_TOKENS,
) -> np.ndarray:
    """Return vectors under which tokens with like neighbours are alike.

    The matrix of positive pointwise mutual information between tokens that stand at most ``window`` apart in a document
    is factored by a truncated singular value decomposition (Levy et al. 2015).

    Args:
        store: the text.
        documents: (D,) int64, the ones that are counted.
        width: H; where the matrix has a lower rank, the other columns are 0.
        rng: draws the documents, if not all are counted, and the decomposition's start.
        window: tokens to each side.
        at_most: tokens that are counted, roughly.

    Returns:
        (V, H) float32 with a mean square of 1 over the rows that have neighbours; the other rows are 0.
    """
    # With scipy this takes a second to import, which those who only need frequencies need not wait for.
    from sklearn.utils.extmath import randomized_svd

    counts = _cooccurrences(store, documents, rng, window, at_most)
    information = _positive_information(counts)
    rank = min(width, information.shape[0] - 1)
    left, strengths, _ = randomized_svd(information, rank, n_iter=2, random_state=int(rng.integers(2**31)))
    vectors = np.zeros((information.shape[0], width), dtype=np.float32)
    vectors[:, :rank] = left * np.sqrt(strengths)
    known = np.diff(information.indptr) > 0
    vectors[~known] = 0  # not quite 0 so far, by rounding
    if known.any():
        vectors /= np.sqrt(np.square(vectors[known]).mean())
    return vectors


def _cooccurrences(
    store: TokenStore, documents: np.ndarray, rng: np.random.Generator, window: int, at_most: int
) -> scipy.sparse.csr_array:
    """Return (V, V) counts of one token standing at most ``window`` after or before another in a document."""
    import scipy.sparse

    size = store.vocab_size
    total = scipy.sparse.csr_array((size, size), dtype=np.float32)
    # A row of these between documents: no pair reaches across.
    border = np.full(window, size, dtype=np.int32)
    pieces: list[np.ndarray] = []
    held = 0
    order = rng.permutation(documents)
    enough = int(np.searchsorted(np.cumsum(store.document_tokens[order]), at_most)) + 1
    # In the order of the store, so that each of its shards is read once.
    chosen = np.sort(order[:enough])
    for position, document in enumerate(chosen.tolist(), start=1):
        ids = store.document(document)
        pieces += [ids.astype(np.int32), border]
        held += len(ids)
        if held >= _CHUNK or position == len(chosen):
            total = total + _count_pairs(np.concatenate(pieces), size, window)
            held, pieces = 0, []
    return total + total.T


def _count_pairs(ids: np.ndarray, size: int, window: int) -> scipy.sparse.csr_array:
    import scipy.sparse

    counts = scipy.sparse.csr_array((size, size), dtype=np.float32)
    for distance in range(1, window + 1):
        first, second = ids[:-distance], ids[distance:]
        inside = (first < size) & (second < size)
        first, second = first[inside], second[inside]
        ones = np.ones(len(first), dtype=np.float32)
        counts = counts + scipy.sparse.coo_array((ones, (first, second)), shape=(size, size)).tocsr()
    return counts


def _positive_information(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Return max(0, log p(i, j) / (p(i) p(j))), with the shares of the contexts j smoothed."""
    import scipy.sparse

    pairs = counts.tocoo()
    tokens = np.asarray(counts.sum(axis=1)).ravel()
    contexts = tokens**_SMOOTHING
    contexts /= max(contexts.sum(), 1.0)
    row, column = pairs.coords
    with np.errstate(divide="ignore"):
        values = np.log(pairs.data / (tokens[row] * contexts[column]))
    keep = values > 0
    return scipy.sparse.csr_array((values[keep].astype(np.float32), (row[keep], column[keep])), shape=counts.shape)
