from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bertsmith.pretraining.masking import Masking, mask_tokens, next_tokens, token_facts
from tests.pretraining.fake_store import FakeTokenizer

TOKENIZER = FakeTokenizer(99)
FACTS = token_facts(TOKENIZER)
CLS, SEP, MASK, UNK = 2, 3, 4, 6


def packed(lengths: list[int], seed: int = 0, unknown: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of [CLS] ... [SEP] ... [SEP] with some [UNK]."""
    rng = np.random.default_rng(seed)
    sequences = []
    for length in lengths:
        ids = rng.choice(FACTS.ordinary_ids, length)
        ids[rng.random(length) < unknown] = UNK
        ids[[0, length // 2, -1]] = CLS, SEP, SEP
        sequences.append(ids)
    return np.concatenate(sequences).astype(np.int64), np.concatenate([[0], np.cumsum(lengths)])


def words_of(ids: np.ndarray) -> list[list[int]]:
    """Positions of each word, found the slow way."""
    words: list[list[int]] = []
    before_is_word = False
    for position, token in enumerate(ids.tolist()):
        special = token in TOKENIZER.special_ids
        if not special:
            if TOKENIZER.starts_word[token] or not before_is_word:
                words.append([])
            words[-1].append(position)
        before_is_word = not special
    return words


@pytest.mark.parametrize("share", [0.15, 0.01, 0.5, 0.99])
def test_exact_count_in_every_sequence(share: float) -> None:
    lengths = [5, 128, 13, 7, 64, 99, 4] * 3
    ids, starts = packed(lengths)
    _, positions, _ = mask_tokens(ids, starts, FACTS, Masking("token", share), np.random.default_rng(0))
    assert (np.diff(positions) > 0).all()
    for length, (start, end) in zip(lengths, pairwise(starts.tolist()), strict=True):
        maskable = int((~FACTS.is_special[ids[start:end]]).sum())
        count = int(((positions >= start) & (positions < end)).sum())
        assert count == min(maskable, max(1, round(share * length)))


@pytest.mark.parametrize("unit", ["token", "word"])
def test_only_ordinary_tokens_are_chosen_and_put(unit: str) -> None:
    ids, starts = packed([61] * 400, unknown=0.2)
    before = ids.copy()
    masked, positions, labels = mask_tokens(ids, starts, FACTS, Masking(unit, 0.3), np.random.default_rng(3))
    assert (ids == before).all(), "the input is left alone"
    assert (labels == ids[positions]).all()
    assert not np.isin(labels, TOKENIZER.special_ids).any()
    put = masked[positions]
    assert not np.isin(put[put != MASK], TOKENIZER.special_ids).any()
    elsewhere = np.setdiff1d(np.arange(len(ids)), positions)
    assert (masked[elsewhere] == ids[elsewhere]).all()
    assert {a.dtype for a in (masked, positions, labels)} == {np.dtype(np.int64)}


def test_eighty_ten_ten() -> None:
    ids, starts = packed([100] * 2000)
    masked, positions, labels = mask_tokens(ids, starts, FACTS, Masking(), np.random.default_rng(5))
    put = masked[positions]
    number = len(positions)
    assert number == 30_000
    ordinary = len(FACTS.ordinary_ids)
    kept = 0.1 + 0.1 / ordinary  # a random token may be the same one
    for share, expected in (((put == MASK).mean(), 0.8), ((put == labels).mean(), kept)):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / number)
    random_ids = put[(put != MASK) & (put != labels)]
    assert set(random_ids.tolist()) == set(FACTS.ordinary_ids.tolist())
    counts = np.bincount(random_ids, minlength=99)[FACTS.ordinary_ids]
    assert counts == pytest.approx(counts.mean(), abs=5 * np.sqrt(counts.mean()))


@pytest.mark.parametrize(("masked", "random"), [(1.0, 0.0), (0.8, 0.0), (0.8, 0.2), (0.0, 0.5)])
def test_other_mixes(masked: float, random: float) -> None:
    ids, starts = packed([100] * 700)
    masking = Masking("token", 0.3, masked, random)
    replaced, positions, labels = mask_tokens(ids, starts, FACTS, masking, np.random.default_rng(5))
    put = replaced[positions]
    others = (put != MASK) & (put != labels)
    changed = 1 - 1 / len(FACTS.ordinary_ids)  # a random token may be the same one
    for share, expected in (((put == MASK).mean(), masked), (others.mean(), random * changed)):
        assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(positions))


def test_next_tokens_are_the_ordinary_ones_of_the_same_sequence() -> None:
    ids, starts = packed([3, 128, 13, 7, 4], seed=3)
    positions, labels = next_tokens(ids, FACTS)
    expected = [
        (place, int(ids[place + 1]))
        for start, end in pairwise(starts.tolist())
        for place in range(start, end - 1)
        if not FACTS.is_special[ids[place + 1]]
    ]
    assert list(zip(positions.tolist(), labels.tolist(), strict=True)) == expected


def test_every_position_is_chosen_equally_often() -> None:
    ids, _ = packed([31], unknown=0)
    whole = np.tile(ids, 3000)
    _, positions, _ = mask_tokens(whole, np.arange(3001) * 31, FACTS, Masking(), np.random.default_rng(7))
    counts = np.bincount(positions % 31, minlength=31)
    maskable = ~FACTS.is_special[ids]
    assert not counts[~maskable].any()
    assert counts[maskable] == pytest.approx(counts[maskable].mean(), abs=5 * np.sqrt(counts[maskable].mean()))


def test_whole_words_are_complete_and_within_the_count() -> None:
    lengths = [9, 128, 13, 77] * 20
    ids, starts = packed(lengths, seed=2)
    _, positions, _ = mask_tokens(ids, starts, FACTS, Masking("word", 0.15), np.random.default_rng(2))
    chosen = set(positions.tolist())
    for word in words_of(ids):
        assert len(chosen.intersection(word)) in (0, len(word))
    for length, (start, end) in zip(lengths, pairwise(starts.tolist()), strict=True):
        count = int(((positions >= start) & (positions < end)).sum())
        assert 1 <= count <= max(1, round(0.15 * length))
    wanted = sum(max(1, round(0.15 * length)) for length in lengths)
    assert len(positions) > 0.97 * wanted, "short words fill the count"


def test_whole_words_that_do_not_fit() -> None:
    continued = np.flatnonzero(~TOKENIZER.starts_word & ~FACTS.is_special)[:8]
    start = np.flatnonzero(TOKENIZER.starts_word & ~FACTS.is_special)[:2]
    long_words = np.concatenate([[CLS, start[0]], continued[:6], [SEP, start[1]], continued[:3], [SEP]])
    ids = np.concatenate([long_words, [CLS, UNK, SEP, UNK, SEP]])
    _, positions, _ = mask_tokens(ids, np.array([0, 14, 19]), FACTS, Masking("word"), np.random.default_rng(0))
    assert positions.tolist() == [9, 10, 11, 12], "the shortest word; nothing where there is no word"


@pytest.mark.parametrize("unit", ["token", "word"])
def test_nothing_to_mask(unit: str) -> None:
    ids = np.array([CLS, UNK, SEP, UNK, UNK, SEP])
    masked, positions, labels = mask_tokens(ids, np.array([0, 6]), FACTS, Masking(unit), np.random.default_rng(0))
    assert masked.tolist() == ids.tolist()
    assert len(positions) == len(labels) == 0


@pytest.mark.parametrize("unit", ["token", "word"])
def test_masks_of_a_part_are_those_of_the_whole(unit: str) -> None:
    lengths = [9, 128, 13, 77, 5]
    ids, starts = packed(lengths)
    masking = Masking(unit, 0.2)
    whole = mask_tokens(ids, starts, FACTS, masking, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    border = int(starts[2])
    first = mask_tokens(ids[:border], starts[:3], FACTS, masking, rng)
    second = mask_tokens(ids[border:], starts[2:] - border, FACTS, masking, rng)
    assert np.concatenate([first[0], second[0]]).tolist() == whole[0].tolist()
    assert np.concatenate([first[1], second[1] + border]).tolist() == whole[1].tolist()
    assert np.concatenate([first[2], second[2]]).tolist() == whole[2].tolist()
