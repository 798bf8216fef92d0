"""Which tokens are to be predicted, and what the encoder sees in their place (section 3.1, appendix A.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bertsmith.text.tokenizer import Tokenizer

MASKED, RANDOM = 0.8, 0.1
"""Shares of the chosen tokens that are replaced by [MASK] and by a random token; the rest stay as they are."""


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen.

    Attributes:
        unit: "token": single tokens; "word": all tokens of a word together.
        share: of a sequence's tokens, special ones included in the count as in the original code.
    """

    unit: Literal["token", "word"] = "token"
    share: float = 0.15


@dataclass(frozen=True)
class TokenFacts:
    """What masking must know of a vocabulary.

    Attributes:
        mask_id: the id of [MASK].
        is_special: (V,) bool; these are never chosen and never put in a place.
        starts_word: (V,) bool, false for ``##`` pieces.
        ordinary_ids: (V - 5,) int64, what a random replacement is drawn from.
    """

    mask_id: int
    is_special: np.ndarray
    starts_word: np.ndarray
    ordinary_ids: np.ndarray


def token_facts(tokenizer: Tokenizer) -> TokenFacts:
    """Return the facts of a tokenizer's vocabulary."""
    is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_special[tokenizer.special_ids] = True
    return TokenFacts(tokenizer.mask_id, is_special, tokenizer.starts_word, np.flatnonzero(~is_special))


def mask_tokens(
    token_ids: np.ndarray, sequence_starts: np.ndarray, facts: TokenFacts, masking: Masking, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens of packed sequences and replace them.

    In each sequence of L tokens exactly ``max(1, round(share * L))`` are chosen, or all that are not special if
    these are fewer; with whole words at most as many, since words that would go beyond are skipped.

    Args:
        token_ids: (T,) int64.
        sequence_starts: (N + 1,) int64.
        facts: of the vocabulary.
        masking: how to choose.
        rng: source of all choices.

    Returns:
        The ids with replacements (T,), the chosen positions (M,) in rising order, their original ids (M,).
    """
    lengths = np.diff(sequence_starts)
    wanted = np.maximum(1, np.round(masking.share * lengths).astype(np.int64))
    free = ~facts.is_special[token_ids]
    if masking.unit == "token":
        positions = _choose_tokens(free, sequence_starts, wanted, rng)
    else:
        positions = _choose_words(token_ids, free, sequence_starts, wanted, facts, rng)
    labels = token_ids[positions]
    chance = rng.random(len(positions))
    random_ids = rng.choice(facts.ordinary_ids, len(positions))
    replaced = np.where(chance < MASKED, facts.mask_id, np.where(chance < MASKED + RANDOM, random_ids, labels))
    masked = token_ids.copy()
    masked[positions] = replaced
    return masked, positions, labels


def _choose_tokens(free: np.ndarray, starts: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sequence = np.repeat(np.arange(len(wanted)), np.diff(starts))
    order = np.where(free, rng.random(len(free)), 2.0)  # special tokens come last
    shuffled = np.lexsort((order, sequence))
    rank = np.arange(len(free)) - starts[:-1][sequence]
    chosen = shuffled[rank < wanted[sequence]]
    return np.sort(chosen[free[chosen]])


def _choose_words(
    token_ids: np.ndarray,
    free: np.ndarray,
    starts: np.ndarray,
    wanted: np.ndarray,
    facts: TokenFacts,
    rng: np.random.Generator,
) -> np.ndarray:
    # A cut segment may begin inside a word: what is left of it counts as a word.
    begins = free & (facts.starts_word[token_ids] | ~np.concatenate([[False], free[:-1]]))
    first = np.flatnonzero(begins)
    word = np.cumsum(begins) - 1
    size = np.bincount(word[free], minlength=len(first))
    owner = np.searchsorted(starts, first, side="right") - 1
    chosen: list[int] = []
    room = wanted.tolist()
    for number in rng.permutation(len(first)).tolist():
        sequence = owner[number]
        if size[number] <= room[sequence]:
            room[sequence] -= int(size[number])
            chosen.extend(range(first[number], first[number] + size[number]))
    return np.sort(np.array(chosen, dtype=np.int64))
