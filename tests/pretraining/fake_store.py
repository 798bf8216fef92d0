"""A token store in memory whose every token is its own vocabulary entry, so that its place can be told from its id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIRST_ID = 7


class FakeTokenizer:
    """[UNK] is not at its usual place; every third entry is a ``##`` piece."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.pad_id, self.cls_id, self.sep_id, self.mask_id, self.unk_id = 0, 2, 3, 4, 6
        self.special_ids = np.array([0, 2, 3, 4, 6])
        self.starts_word = np.arange(vocab_size) % 3 != 1
        special = {0: "[PAD]", 2: "[CLS]", 3: "[SEP]", 4: "[MASK]", 6: "[UNK]"}
        self.tokens = [special.get(i, f"{'' if self.starts_word[i] else '##'}t{i}") for i in range(vocab_size)]


class FakeStore:
    """Sentence lengths per document; ids count up from ``FIRST_ID`` over the whole store."""

    def __init__(self, documents: list[list[int]]) -> None:
        self.path = Path("store")
        self.lengths = [np.array(d, dtype=np.int32) for d in documents]
        self.num_documents = len(documents)
        self.document_sentences = np.array([len(d) for d in documents], dtype=np.int64)
        self.document_tokens = np.array([sum(d) for d in documents], dtype=np.int64)
        self.num_tokens = int(self.document_tokens.sum())
        self.document_starts = FIRST_ID + np.concatenate([[0], np.cumsum(self.document_tokens)])
        self.starts = [
            np.concatenate([[0], np.cumsum(d)]).astype(np.int64) + start
            for d, start in zip(self.lengths, self.document_starts, strict=False)
        ]
        self.tokenizer = FakeTokenizer(FIRST_ID + self.num_tokens)
        self.calls = 0

    def sentence_lengths(self, document: int) -> np.ndarray:
        self.calls += 1
        return self.lengths[document]

    def sentence(self, document: int, sentence: int) -> np.ndarray:
        start, end = self.starts[document][sentence : sentence + 2]
        return np.arange(start, end).astype(np.uint32)

    def document_of(self, token_id: int) -> int:
        return int(np.searchsorted(self.document_starts, token_id, side="right")) - 1

    def sentence_starts(self) -> set[int]:
        return {int(i) for starts in self.starts for i in starts[:-1]}

    def sentence_ends(self) -> set[int]:
        return {int(i) - 1 for starts in self.starts for i in starts[1:]}


def random_store(documents: int, seed: int = 0, most_sentences: int = 25, longest: int = 19) -> FakeStore:
    rng = np.random.default_rng(seed)
    return FakeStore(
        [rng.integers(1, longest + 1, rng.integers(1, most_sentences + 1)).tolist() for _ in range(documents)]
    )
