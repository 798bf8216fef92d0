"""Shards under way: how much memory a finished one takes."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bertsmith.console import Log
from bertsmith.text import partial
from bertsmith.text.partial import PartialStore
from bertsmith.text.shards import TokenisedDocuments

VOCABULARY = 57


def documents(tokens: int) -> TokenisedDocuments:
    """One document of sentences of 11 tokens."""
    sentences = tokens // 11
    return TokenisedDocuments(
        sentence_counts=np.array([sentences], dtype=np.int32),
        sentence_lengths=np.full(sentences, 11, dtype=np.int32),
        token_ids=np.random.default_rng(3).integers(VOCABULARY, size=sentences * 11).astype(np.uint16),
        characters=np.array([sentences * 20]),
        sources=np.zeros(1, dtype=np.int32),
        lines=np.ones(1, dtype=np.int64),
        ordinals=np.zeros(1, dtype=np.int64),
    )


def test_tokens_are_counted_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_COUNTED_AT_ONCE", 7)
    store = PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
    added = documents(330)
    store.add(added, 200)
    store.flush()
    assert store.token_counts.tolist() == np.bincount(added.token_ids, minlength=VOCABULARY).tolist()


def test_a_finished_shard_takes_little_more_memory_than_its_tokens(tmp_path: Path) -> None:
    store = PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
    added = documents(5_500_000)
    store.add(added, 100_000_000)
    tracemalloc.start()
    store.flush()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One copy of the ids and the lengths, and the offsets; counting all ids at once would take 44 MB more.
    assert peak < 2 * (added.token_ids.nbytes + added.sentence_lengths.nbytes) + 10e6
