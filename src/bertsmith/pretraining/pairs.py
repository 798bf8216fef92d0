"""Which sentences make an instance: segments A and B of whole sentences, as in section 3.1 and appendix A.2.

Planning looks at sentence lengths only. A plan is a table of numbers, one row an instance; token ids are
gathered when a step needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertsmith.text.store import TokenStore

# Columns of a plan.
DOCUMENT_A, START_A, END_A, DOCUMENT_B, START_B, END_B, IS_NEXT, KEY = range(8)
PLAN_COLUMNS = 8

_RANDOM_BLOCK = 4096


@dataclass(frozen=True)
class Instance:
    """A pair of segments, not masked yet.

    Attributes:
        token_ids: (L,) int64, [CLS] a [SEP] b [SEP].
        segment_ids: (L,) int64, 0 up to and with the first [SEP], then 1.
        is_next: whether b really follows a.
        document_a: where a is from.
        document_b: where b is from; the same document exactly if ``is_next``.
    """

    token_ids: np.ndarray
    segment_ids: np.ndarray
    is_next: bool
    document_a: int
    document_b: int


def plan_passages(
    store: TokenStore,
    passages: np.ndarray,
    others: np.ndarray,
    *,
    room: int,
    short_probability: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Plan the instances of some passages.

    Sentences are gathered until a target length is reached; the target is ``room``, or with
    ``short_probability`` a uniform number from 2 to ``room``, so that the model meets short inputs too. A is a
    random number of them from the front. Half of the time, and always when there is only one sentence, B begins
    at a random sentence of another document, and the sentences that A left are used again; else B is the rest.

    Args:
        store: where the sentences are.
        passages: (P, 3) int64: document, first sentence, end.
        others: (D,) int64, documents that a random B may come from; at least two.
        room: tokens without [CLS] and two [SEP].
        short_probability: see above.
        rng: all random choices come from it, in the order of the passages.

    Returns:
        (instances, 8) int64, columns as named at the top of this module.
    """
    uniform = _uniform(rng)
    rows: list[tuple[int, ...]] = []
    for document, first, end in passages.tolist():
        lengths = store.sentence_lengths(document)[first:end].tolist()
        at = 0
        while at < len(lengths):
            target = room
            if next(uniform) < short_probability:
                target = 2 + int(next(uniform) * (room - 1))
            stop, tokens = at, 0
            while stop < len(lengths) and tokens < target:
                tokens += lengths[stop]
                stop += 1
            sentences = stop - at
            split = at + (1 + int(next(uniform) * (sentences - 1)) if sentences > 1 else 1)
            key = int(next(uniform) * (1 << 53))
            if sentences > 1 and next(uniform) < 0.5:
                rows.append((document, first + at, first + split, document, first + split, first + stop, 1, key))
                at = stop
            else:
                other, start_b, end_b = _random_segment(
                    store, others, document, target - sum(lengths[at:split]), uniform
                )
                rows.append((document, first + at, first + split, other, start_b, end_b, 0, key))
                at = split
    return np.array(rows, dtype=np.int64).reshape(-1, PLAN_COLUMNS)


def _random_segment(
    store: TokenStore, others: np.ndarray, document: int, target: int, uniform: Iterator[float]
) -> tuple[int, int, int]:
    """Return another document and consecutive sentences of it, from a random one on, of ``target`` tokens or more."""
    other = document
    while other == document:
        other = int(others[int(next(uniform) * len(others))])
    lengths = store.sentence_lengths(other)
    start = int(next(uniform) * len(lengths))
    end, tokens = start, 0
    while end < len(lengths) and (end == start or tokens < target):
        tokens += int(lengths[end])
        end += 1
    return other, start, end


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    # Python floats from blocks: a call of the generator for each number is ten times slower.
    while True:
        yield from rng.random(_RANDOM_BLOCK).tolist()


def build_instance(store: TokenStore, row: Sequence[int], *, room: int, cls_id: int, sep_id: int) -> Instance:
    """Gather the ids of one row of a plan, and cut the pair to ``room`` tokens."""
    document_a, start_a, end_a, document_b, start_b, end_b, is_next, key = row
    a = np.concatenate([store.sentence(document_a, s) for s in range(start_a, end_a)])
    b = np.concatenate([store.sentence(document_b, s) for s in range(start_b, end_b)])
    if len(a) + len(b) > room:
        a, b = truncate_pair(a, b, room, np.random.default_rng(key))
    ids = np.concatenate([[cls_id], a, [sep_id], b, [sep_id]]).astype(np.int64)
    segments = np.zeros(len(ids), dtype=np.int64)
    segments[len(a) + 2 :] = 1
    return Instance(ids, segments, bool(is_next), document_a, document_b)


def truncate_pair(a: np.ndarray, b: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut tokens one at a time from the longer segment (B, if equal), each from its front or its end by chance.

    Done at once: how many each segment loses follows from the lengths, and how many of these from the front is
    binomial.
    """
    longer = max(len(a), len(b)) - min(len(a), len(b))
    excess = len(a) + len(b) - room
    both = max(0, excess - longer)
    from_longer = min(excess, longer)
    cut_a = (from_longer if len(a) > len(b) else 0) + both // 2
    cut_b = (from_longer if len(b) >= len(a) else 0) + (both + 1) // 2
    return _cut(a, cut_a, rng), _cut(b, cut_b, rng)


def _cut(tokens: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    front = int(rng.binomial(count, 0.5))
    return tokens[front : len(tokens) - (count - front)]
