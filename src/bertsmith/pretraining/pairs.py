"""Which sentences make an instance: segments A and B of whole sentences, as in section 3.1 and appendix A.2.

Planning looks at sentence lengths only. A plan is a table of numbers, one row an instance; token ids are
gathered when a step needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bertsmith.errors import InputError
from bertsmith.text.store import TokenStore

# Columns of a plan. A segment is tokens [SKIP, SKIP + TAKE) of sentences [FIRST, END) of a document.
DOCUMENT_A, FIRST_A, END_A, SKIP_A, TAKE_A, DOCUMENT_B, FIRST_B, END_B, SKIP_B, TAKE_B, IS_NEXT = range(11)
PLAN_COLUMNS = 11

SPECIAL_TOKENS_IN_PAIR = 3
"""[CLS] a [SEP] b [SEP]."""

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


def room_for_pair(max_length: int) -> int:
    """Return the tokens that a pair may have beside its special tokens.

    Raises:
        InputError: there is no room for two segments.
    """
    room = max_length - SPECIAL_TOKENS_IN_PAIR
    if room < 2:
        raise InputError(f"max_length {max_length} is too short for a pair of segments; at least 5")
    return room


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
    A pair longer than ``room`` is cut as in :func:`cut_pairs`.

    A sentence longer than ``room`` is taken as several, of at most half of ``room`` each. Cut as a whole at
    both ends, only its middle would ever be seen, and text without sentence ends would be lost.

    Args:
        store: where the sentences are.
        passages: (P, 3) integers: document, first sentence, end.
        others: (D,) int64, documents that a random B may come from; at least one beside a passage's own.
        room: tokens of a sequence without [CLS] and two [SEP]; at least 2.
        short_probability: see above.
        rng: all random choices come from it, in the order of the passages.

    Returns:
        (instances, 11) int64 in the order of the text, columns as named at the top of this module.
    """
    uniform = _uniform(rng)
    rows: list[tuple[int, ...]] = []
    for document, first, end in passages.tolist():
        lengths, sentences, skips = _units(store.sentence_lengths(document)[first:end], first, room)
        number, at = len(lengths), 0
        while at < number:
            target = room
            if uniform() < short_probability:
                target = 2 + int(uniform() * (room - 1))
            stop, tokens = at, 0
            while stop < number and tokens < target:
                tokens += lengths[stop]
                stop += 1
            single = stop - at == 1
            middle = at + 1 if single else at + 1 + int(uniform() * (stop - at - 1))
            tokens_a = sum(lengths[at:middle])
            a = (document, sentences[at], sentences[middle - 1] + 1, skips[at], tokens_a)
            if single or uniform() < 0.5:
                rows.append((*a, *_random_segment(store, others, document, target - tokens_a, room, uniform), 0))
                at = middle
            else:
                b = (document, sentences[middle], sentences[stop - 1] + 1, skips[middle], tokens - tokens_a)
                rows.append((*a, *b, 1))
                at = stop
    plan = np.array(rows, dtype=np.int64).reshape(-1, PLAN_COLUMNS)
    cut_pairs(plan, room, rng)
    return plan


def _units(lengths: np.ndarray, first: int, room: int) -> tuple[list[int], Sequence[int], Sequence[int]]:
    """Return what is gathered as a sentence: its tokens, the sentence it is of, and the tokens of that before it."""
    if len(lengths) and lengths.max() > room:
        units = [
            (end - start, number, start)
            for number, length in enumerate(lengths.tolist(), first)
            for start, end in _pieces(length, room)
        ]
        return [u[0] for u in units], [u[1] for u in units], [u[2] for u in units]
    return lengths.tolist(), range(first, first + len(lengths)), [0] * len(lengths)


def _pieces(length: int, room: int) -> list[tuple[int, int]]:
    if length <= room:
        return [(0, length)]
    number = -(-length // (room // 2))
    return [(length * n // number, length * (n + 1) // number) for n in range(number)]


def _random_segment(
    store: TokenStore, others: np.ndarray, document: int, target: int, room: int, uniform: Callable[[], float]
) -> tuple[int, int, int, int, int]:
    """Return document, first sentence, end, tokens to skip and to take.

    From a random sentence of a random other document on, whole sentences up to ``target`` tokens or a little more;
    of a sentence longer than ``room`` only as much as is needed.
    """
    other = document
    while other == document:
        other = int(others[int(uniform() * len(others))])
    lengths = store.sentence_lengths(other)
    first = int(uniform() * len(lengths))
    pieces = _pieces(int(lengths[first]), room)
    skip = pieces[int(uniform() * len(pieces))][0] if len(pieces) > 1 else 0
    end, tokens = first, 0
    for length in lengths[first : first + max(1, target)].tolist():
        end += 1
        if length > room:
            tokens += min(length - (skip if end == first + 1 else 0), max(target - tokens, room // 2))
            break
        tokens += length
        if tokens >= target:
            break
    return other, first, end, skip, tokens


def _uniform(rng: np.random.Generator) -> Callable[[], float]:
    def numbers() -> Iterator[float]:
        # Python floats from blocks: a call of the generator for each number is ten times slower.
        while True:
            yield from rng.random(_RANDOM_BLOCK).tolist()

    return numbers().__next__


def cut_pairs(plan: np.ndarray, room: int, rng: np.random.Generator) -> None:
    """Cut tokens one at a time from the longer segment (B, if equal), each from its front or its end by chance.

    Done at once for all rows, in place: how many each segment loses follows from the lengths, and how many of
    these from the front is binomial.
    """
    a, b = plan[:, TAKE_A], plan[:, TAKE_B]
    excess = np.maximum(0, a + b - room)
    from_longer = np.minimum(excess, np.abs(a - b))
    from_both = excess - from_longer
    a_longer = a > b
    cut_a = np.where(a_longer, from_longer, 0) + from_both // 2
    cut_b = np.where(a_longer, 0, from_longer) + (from_both + 1) // 2
    for cut, skip, take in ((cut_a, SKIP_A, TAKE_A), (cut_b, SKIP_B, TAKE_B)):
        plan[:, skip] += rng.binomial(cut, 0.5)
        plan[:, take] -= cut


def sequence_lengths(plan: np.ndarray) -> np.ndarray:
    """Return (instances,) int64: tokens of each row's sequence, special ones included."""
    lengths: np.ndarray = plan[:, TAKE_A] + plan[:, TAKE_B] + SPECIAL_TOKENS_IN_PAIR
    return lengths


def build_instance(store: TokenStore, row: np.ndarray) -> Instance:
    """Gather the ids of one row of a plan."""
    numbers = row.tolist()
    a = _segment(store, *numbers[:DOCUMENT_B])
    b = _segment(store, *numbers[DOCUMENT_B:IS_NEXT])
    ids = np.empty(len(a) + len(b) + SPECIAL_TOKENS_IN_PAIR, dtype=np.int64)
    ids[0] = store.tokenizer.cls_id
    ids[1 : len(a) + 1] = a
    ids[len(a) + 1] = ids[-1] = store.tokenizer.sep_id
    ids[len(a) + 2 : -1] = b
    segments = np.zeros(len(ids), dtype=np.int64)
    segments[len(a) + 2 :] = 1
    return Instance(ids, segments, bool(numbers[IS_NEXT]), numbers[DOCUMENT_A], numbers[DOCUMENT_B])


def _segment(store: TokenStore, document: int, first: int, end: int, skip: int, take: int) -> np.ndarray:
    sentences = [store.sentence(document, number) for number in range(first, end)]
    return np.concatenate(sentences)[skip : skip + take]
