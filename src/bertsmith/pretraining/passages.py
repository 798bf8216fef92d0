"""Passages: the units that are shuffled. A document, or a piece of a long one that ends with a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bertsmith.text.store import TokenStore

PASSAGE_TOKENS = 8192


@dataclass(frozen=True)
class Passages:
    """P passages; 16 to 24 bytes each.

    Attributes:
        documents: (P,) int32 or int64.
        firsts: (P,) int32, first sentence.
        ends: (P,) int32, the sentence after the last.
        tokens: (P,) int32.
        num_tokens: of all passages.
    """

    documents: np.ndarray
    firsts: np.ndarray
    ends: np.ndarray
    tokens: np.ndarray
    num_tokens: int

    def __len__(self) -> int:
        return len(self.documents)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return (len(numbers), 3) int64: document, first sentence, end."""
        return np.stack([c[numbers] for c in (self.documents, self.firsts, self.ends)], axis=1).astype(np.int64)

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return all passages' numbers (P,) in random order."""
        order = np.arange(len(self), dtype=np.int32 if len(self) < 1 << 31 else np.int64)
        rng.shuffle(order)
        return order

    def borders(self, order: np.ndarray, number: int) -> np.ndarray:
        """Return (number + 1,) borders in ``order`` between windows of about equal tokens; none is empty.

        Args:
            order: (P,) numbers of all passages.
            number: of windows; at most P.
        """
        ends = np.cumsum(self.tokens[order], dtype=np.int64)
        wanted = np.array([self.num_tokens * n // number for n in range(1, number)], dtype=np.int64)
        inner = np.searchsorted(ends, wanted) + 1
        # One huge passage may be larger than several windows: each still gets one of its own.
        steps = np.arange(1, number)
        inner = np.maximum.accumulate(np.maximum(inner, steps) - steps) + steps
        inner = np.minimum(inner, len(order) - number + steps)
        return np.concatenate([[0], inner, [len(order)]])


def cut_passages(store: TokenStore, documents: np.ndarray, at_most: int = PASSAGE_TOKENS) -> Passages:
    """Cut long documents at sentence ends into passages of about even size, so that windows can be even.

    Args:
        store: where the documents are.
        documents: (D,) int64; empty ones are left out.
        at_most: tokens of a passage, roughly; never above 8,192.
    """
    at_most = max(1, min(PASSAGE_TOKENS, at_most))
    tokens = store.document_tokens[documents]
    short = documents[(tokens > 0) & (tokens <= at_most)]
    parts = [(short, np.zeros_like(short), store.document_sentences[short], store.document_tokens[short])]
    for document in documents[tokens > at_most].tolist():
        ends = np.cumsum(store.sentence_lengths(document), dtype=np.int64)
        number = -(-int(ends[-1]) // at_most)
        inner = np.searchsorted(ends, ends[-1] * np.arange(1, number) // number) + 1
        edges = np.unique(np.concatenate([[0], inner, [len(ends)]]))
        sums = np.diff(np.concatenate([[0], ends])[edges])
        parts.append((np.full(len(sums), document), edges[:-1], edges[1:], sums))
    wide = np.int32 if store.num_documents < 1 << 31 else np.int64
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Passages(
        documents=columns[0].astype(wide),
        firsts=columns[1].astype(np.int32),
        ends=columns[2].astype(np.int32),
        tokens=columns[3].astype(np.int32),
        num_tokens=int(columns[3].sum()),
    )
