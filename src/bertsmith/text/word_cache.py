"""Token ids for much text: each word is cut into pieces once.

Text is mostly words that were there before, and looking one up costs less than cutting it. The result is the same:
the ids of a text are those of its parts between spaces, one after the other (``Tokenizer.splits_at_spaces``).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertsmith.text.shards import id_dtype, offsets
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
        self._matcher = tokenizer.matcher
        self._forget()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process learns the words that it meets.
        return WordCache, (self._tokenizer,)

    def _forget(self) -> None:
        # A word that is asked for the first time gets the next number.
        self._numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        self._characters = 0
        self._ids = _GrowingArray(self._dtype)
        # The last word's end is the next one's beginning.
        self._starts = _GrowingArray(np.dtype(np.int64))
        self._starts.append(np.zeros(1, dtype=np.int64))

    def sentence_ids(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return what ``Tokenizer.sentence_ids`` gives, laid end to end.

        Returns:
            (T,) uint16 or uint32 ids of all S sentences, and (S,) int32 their lengths.
        """
        if not sentences:
            return np.zeros(0, dtype=self._dtype), np.zeros(0, dtype=np.int32)
        if len(self._numbers) > MAX_WORDS or self._characters > MAX_CHARACTERS:
            self._forget()
        if self._tokenizer.splits_at_spaces:
            words = " ".join(sentences).split(" ")
            word_counts = np.array([s.count(" ") + 1 for s in sentences], dtype=np.int64)
        else:
            words = list(sentences)
            word_counts = np.ones(len(sentences), dtype=np.int64)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), dtype=np.int64, count=len(words))
        self._learn()
        starts = self._starts.values
        first = starts[numbers]
        lengths = starts[numbers + 1] - first
        # For every token of the result: its place within its word, after the word's place in the cache.
        shifts = first - (np.cumsum(lengths) - lengths)
        ids = self._ids.values[np.arange(lengths.sum()) + np.repeat(shifts, lengths)]
        first_words = offsets(word_counts, np.int64)[:-1]
        return ids, np.add.reduceat(lengths, first_words).astype(np.int32)

    def _learn(self) -> None:
        """Cut the words that have got a number and no ids yet."""
        known = len(self._starts.values) - 1
        new = list(itertools.islice(reversed(self._numbers), len(self._numbers) - known))[::-1]
        if not new:
            return
        ids, lengths = self._encode(new)
        self._characters += sum(map(len, new))
        self._starts.append(len(self._ids.values) + np.cumsum(lengths))
        self._ids.append(ids)

    def _encode(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of words end to end, and how many each word has."""
        if self._matcher is None:
            whole = self._tokenizer.sentence_ids(words)
            return np.concatenate(whole), np.array([len(i) for i in whole], dtype=np.int64)
        ids, lengths, known = self._matcher.ids(words)
        if known.all():
            return ids, lengths
        other_ids, other_lengths = self._encode_others([words[number] for number in np.flatnonzero(~known)])
        lengths[~known] = other_lengths
        merged = np.empty(len(ids) + len(other_ids), dtype=np.int64)
        is_known = np.repeat(known, lengths)
        merged[is_known], merged[~is_known] = ids, other_ids
        return merged, lengths

    def _encode_others(self, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
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
        return np.concatenate(all_ids), np.concatenate(all_lengths)


class _GrowingArray:
    """An array that is added to at its end; room doubles, so that adding costs what is added."""

    def __init__(self, dtype: np.dtype[np.generic]) -> None:
        self._room = np.zeros(1024, dtype=dtype)
        self._length = 0

    @property
    def values(self) -> np.ndarray:
        """What was added so far."""
        return self._room[: self._length]

    def append(self, values: np.ndarray) -> None:
        """Add values, which are converted to the array's type."""
        length = self._length + len(values)
        if length > len(self._room):
            room = np.zeros(max(length, 2 * len(self._room)), dtype=self._room.dtype)
            room[: self._length] = self.values
            self._room = room
        self._room[self._length : length] = values
        self._length = length
