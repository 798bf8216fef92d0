"""Token ids for much text: each word goes through the tokenizer once.

Text is mostly words that were there before, and looking one up takes a tenth of the time of tokenising it:
English goes through in half the time, Korean with its many word forms in 70 to 100 % of it. The result is
the same: the ids of a text are those of its parts between spaces, one after the other
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

WORDS_A_TEXT = 100


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
        ids, lengths = self._encode(new)
        self._numbers.update(zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True))
        self._characters += sum(map(len, new))
        self._ids = np.concatenate([self._ids, *ids]).astype(self._dtype)
        self._lengths = np.concatenate([self._lengths, *lengths])
        self._starts = offsets(self._lengths, np.int64)

    def _encode(self, words: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the ids of words end to end, and how many each word has, both in parts."""
        if not self._tokenizer.splits_at_spaces:
            ids = self._tokenizer.sentence_ids(words)
            return ids, [np.array([len(i) for i in ids], dtype=np.int64)]
        # A call costs as much as several tokens: words go in as texts of many, told apart by where tokens start.
        parts = [words[first : first + WORDS_A_TEXT] for first in range(0, len(words), WORDS_A_TEXT)]
        all_ids, all_lengths = [], []
        for part, (ids_of_part, token_starts) in zip(
            parts, self._tokenizer.ids_and_starts([" ".join(part) for part in parts]), strict=True
        ):
            word_ends = np.cumsum([len(word) + 1 for word in part])
            owners = np.searchsorted(word_ends, token_starts, side="right")
            all_ids.append(ids_of_part)
            all_lengths.append(np.bincount(owners, minlength=len(part)))
        return all_ids, all_lengths
