"""Which tokens are to be predicted, and what the encoder sees in their place (section 3.1, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from bertsmith.batch import Batch, pack
from bertsmith.config import PAPER_MASK_SHARE
from bertsmith.pretraining.pairs import Instance
from bertsmith.text.tokenizer import Tokenizer

DRAWS_PER_TOKEN = 3
"""Random numbers that a token uses, chosen or not: so masks can be drawn from the middle of a batch on."""


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen.

    Attributes:
        unit: "token": single tokens; "word": all tokens of a word together; "next": none, and every token is to be
            predicted from those before it.
        share: of a sequence's tokens, special ones included in the count as in the original code.
        masked: share of the chosen ones that are replaced by [MASK].
        random: share of the chosen ones that are replaced by a random token; the rest stay as they are.
    """

    unit: Literal["token", "word", "next"] = "token"
    share: float = PAPER_MASK_SHARE
    masked: float = 0.8
    random: float = 0.1


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
    these are fewer; with whole words at most as many, since words that would go beyond are skipped (a sequence
    where no word fits gets its shortest one).

    Exactly three numbers are drawn from ``rng`` for every token, in order, and a sequence's masks follow from
    its own: the masks of two batches in a row are those of the two laid end to end.

    Args:
        token_ids: (T,) int64.
        sequence_starts: (N + 1,) int64.
        facts: of the vocabulary.
        masking: how to choose.
        rng: source of all choices.

    Returns:
        The ids with replacements (T,), the chosen positions (M,) in rising order, their original ids (M,).
    """
    order, chance, which = rng.random((len(token_ids), DRAWS_PER_TOKEN)).T
    lengths = np.diff(sequence_starts)
    wanted = np.maximum(1, np.round(masking.share * lengths).astype(np.int64))
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    free = ~facts.is_special[token_ids]
    if masking.unit == "token":
        positions = _choose_tokens(order, free, sequence, sequence_starts, wanted)
    else:
        positions = _choose_words(order, free, sequence, facts.starts_word[token_ids], wanted)
    labels = token_ids[positions]
    chance = chance[positions]
    random_ids = facts.ordinary_ids[(which[positions] * len(facts.ordinary_ids)).astype(np.int64)]
    masked = token_ids.copy()
    masked[positions] = np.where(
        chance < masking.masked, facts.mask_id, np.where(chance < masking.masked + masking.random, random_ids, labels)
    )
    return masked, positions, labels


def next_tokens(token_ids: np.ndarray, facts: TokenFacts) -> tuple[np.ndarray, np.ndarray]:
    """Return (M,) positions of packed sequences that an ordinary token follows, and (M,) those tokens' ids.

    A sequence begins with a special token, so none of these stands in the next sequence.
    """
    positions = np.flatnonzero(~facts.is_special[token_ids[1:]])
    return positions, token_ids[positions + 1]


def masked_batch(instances: Sequence[Instance], masking: Masking, facts: TokenFacts, rng: np.random.Generator) -> Batch:
    """Pack instances, and mask them or ask for their next tokens."""
    batch = pack(
        [i.token_ids for i in instances],
        [i.segment_ids for i in instances],
        labels=[0 if i.is_next else 1 for i in instances],
    )
    ids = batch.token_ids.numpy()
    if masking.unit == "next":
        positions, labels = next_tokens(ids, facts)
    else:
        ids, positions, labels = mask_tokens(ids, batch.sequence_starts.numpy(), facts, masking, rng)
    return replace(
        batch,
        token_ids=torch.from_numpy(ids),
        masked_positions=torch.from_numpy(positions),
        masked_labels=torch.from_numpy(labels),
    )


def _choose_tokens(
    order: np.ndarray, free: np.ndarray, sequence: np.ndarray, starts: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    # One sort for all sequences: the whole part of the key is the sequence, and special tokens come last in it.
    shuffled = np.argsort(sequence + np.where(free, order / 2, 0.75))
    rank = np.arange(len(free)) - starts[:-1][sequence]
    chosen = shuffled[rank < wanted[sequence]]
    return np.sort(chosen[free[chosen]])


def _choose_words(
    order: np.ndarray, free: np.ndarray, sequence: np.ndarray, starts_word: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    # A cut segment may begin inside a word: what is left of it counts as a word.
    begins = free & (starts_word | ~np.concatenate([[False], free[:-1]]))
    first = np.flatnonzero(begins)
    size = np.bincount((np.cumsum(begins) - 1)[free], minlength=len(first))
    owner = sequence[first]
    taken = np.zeros(len(first), dtype=bool)
    shuffled = np.argsort(owner + order[first])
    room = wanted.tolist()
    words = zip(shuffled.tolist(), owner[shuffled].tolist(), size[shuffled].tolist(), strict=True)
    taken[[word for word, at, count in words if _fits(room, at, count)]] = True
    empty = np.ones(len(wanted), dtype=bool)
    empty[owner[taken]] = False
    for at in np.flatnonzero(empty).tolist():
        words_here = np.flatnonzero(owner == at)
        if len(words_here):
            taken[words_here[size[words_here].argmin()]] = True
    positions: np.ndarray = np.flatnonzero(free)[np.repeat(taken, size)]
    return positions


def _fits(room: list[int], sequence: int, count: int) -> bool:
    if count > room[sequence]:
        return False
    room[sequence] -= count
    return True
