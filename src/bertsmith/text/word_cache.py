"""Token ids for much text: each word goes through the tokenizer once.

Text is mostly words that were there before, and looking one up takes a tenth of the time of tokenising it:
English goes through in half the time, Korean with its many word forms in three quarters and less as text grows. The result is the same: the ids of a text are those of its parts between spaces, one after the other
(``Tokenizer.splits_at_spaces``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertsmith.text.store import id_dtype, offsets
from bertsmith.text.tokenizer import Tokenizer

MAX_WORDS = 500_000
MAX_CHARACTERS = 10_000_000
"""Beyond one of these the cache starts anew; it takes about 100 MB then."""


class WordCache:
    """The ids of words seen so far, end to end in one array, and where each word's begin."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = id_dtype(tokenizer.vocab_size)
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._characters = 0
        self._ids = np.zeros(0, dtype=self._dtype)
        self._lengths = np.zeros(0, dtype=np.int64)
        self._starts = np.zeros(1, dtype=np.int64)

    def sentence_ids(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what ``Tokenizer.sentence_ids`` gives, laid end to end.

        Returns:
            (T,) uint16 or uint32 ids of all S sentences, and (S,) int32 their lengths.
        """
        if not sentences:
            return np.zeros(0, dtype=self._dtype), np.zeros(0, dtype=np.int32)
        if self._tokenizer.splits_at_spaces:
            words = " ".join(sentences).split(" ")
            word_counts = np.array([s.count(" ") + 1 for s in sentences], dtype=np.int64)
        else:
            words = list(sentences)
            word_counts = np.ones(len(sentences), dtype=np.int64)
        self._learn(words)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int64, count=len(words))
        lengths = self._lengths[numbers]
        # For every token of the result: its place within its word, after the word's place in the cache.
        shifts = self._starts[numbers] - (np.cumsum(lengths) - lengths)
        ids = self._ids[np.arange(lengths.sum()) + np.repeat(shifts, lengths)]
        first_words = offsets(word_counts, np.int64)[:-1]
        return ids, np.add.reduceat(lengths, first_words).astype(np.int32)

    def _learn(self, words: list[str]) -> None:
        if len(self._numbers) > MAX_WORDS or self._characters > MAX_CHARACTERS:
            self._forget()
        new = [word for word in dict.fromkeys(words) if word not in self._numbers]
        if not new:
            return
        ids = self._tokenizer.sentence_ids(new)
        self._numbers.update(zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True))
        self._characters += sum(map(len, new))
        self._ids = np.concatenate([self._ids, *ids]).astype(self._dtype)
        self._lengths = np.concatenate([self._lengths, [len(i) for i in ids]])
        self._starts = offsets(self._lengths, np.int64)
