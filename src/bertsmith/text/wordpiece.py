"""The WordPiece learner: words with counts to a list of pieces, the same list every time.

Starts from single characters and joins the pair of neighbouring pieces that is most frequent, again and again
(Wu et al. 2016 begin from the same characters and joins). Ties are broken by the pieces' text, so the result
depends on the counts alone: not on hash seeds, threads or the order of the text.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from bertsmith.errors import InputError
from bertsmith.text.tokenizer import MAX_WORD_CHARACTERS, PREFIX

Pair = tuple[int, int]


def choose_alphabet(counts: Mapping[str, int], coverage: float) -> set[str]:
    """Return the most frequent characters that together make up ``coverage`` of all characters of the words."""
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    wanted = coverage * characters.total()
    alphabet: set[str] = set()
    covered = 0
    for character, count in sorted(characters.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted:
            break
        alphabet.add(character)
        covered += count
    return alphabet


def learn_pieces(
    counts: Mapping[str, int],
    size: int,
    *,
    special_tokens: Sequence[str],
    coverage: float = 1.0,
    min_frequency: int = 2,
    advance: Callable[[int], None] = lambda pieces: None,
) -> list[str]:
    """Learn a vocabulary of at most ``size`` entries.

    Args:
        counts: how often each word occurs; words are normalised and split at punctuation.
        size: entries wanted, special tokens included; fewer come if the words give no more.
        special_tokens: the first entries.
        coverage: share of the characters that the alphabet covers; words with others are left out.
        min_frequency: a pair seen less often is not joined.
        advance: called with the number of new entries now and then.

    Returns:
        Special tokens, then the alphabet in its initial and its ``##`` forms, then pieces in the order in which
        they were joined.

    Raises:
        InputError: ``size`` is too small for the alphabet.
    """
    alphabet = choose_alphabet(counts, coverage)
    usable = sorted(w for w in counts if len(w) <= MAX_WORD_CHARACTERS and alphabet.issuperset(w))
    initial = sorted({word[0] for word in usable})
    inner = sorted({character for word in usable for character in word[1:]})
    pieces = [*special_tokens, *initial, *(PREFIX + character for character in inner)]
    if len(pieces) > size:
        raise InputError(
            f"size {size} is smaller than the alphabet: {len(special_tokens)} special tokens, {len(initial)} initial "
            f"and {len(inner)} inner characters need at least {len(pieces)}. "
            f"Take a larger size, or a lower coverage than {coverage}"
        )
    joiner = _Joiner(usable, [counts[word] for word in usable], pieces)
    reported = len(pieces)
    while len(pieces) < size and joiner.join_best(min_frequency):
        if len(pieces) - reported >= 100:
            advance(len(pieces) - reported)
            reported = len(pieces)
    advance(len(pieces) - reported)
    return pieces


class _Joiner:
    """Words as lists of piece numbers, and the count of every pair of neighbours, kept up to date.

    A pair's place in the heap may be out of date: its count is checked when it comes to the top. ``places`` may
    name words that have lost the pair since; they are skipped.
    """

    def __init__(self, words: list[str], counts: list[int], pieces: list[str]) -> None:
        self.pieces = pieces
        self.numbers = {piece: number for number, piece in enumerate(pieces)}
        self.counts = counts
        self.words = [[self.numbers[w[0]], *(self.numbers[PREFIX + c] for c in w[1:])] for w in words]
        self.pairs: defaultdict[Pair, int] = defaultdict(int)
        self.places: defaultdict[Pair, list[int]] = defaultdict(list)
        for place, (word, count) in enumerate(zip(self.words, counts, strict=True)):
            for pair in itertools.pairwise(word):
                self.pairs[pair] += count
                self.places[pair].append(place)
        self.heap = [self._entry(pair, count) for pair, count in self.pairs.items()]
        heapq.heapify(self.heap)

    def _entry(self, pair: Pair, count: int) -> tuple[int, str, str, Pair]:
        return (-count, self.pieces[pair[0]], self.pieces[pair[1]], pair)

    def join_best(self, min_frequency: int) -> bool:
        """Join the most frequent pair everywhere; return false when none is frequent enough."""
        while self.heap:
            negative, _, _, pair = heapq.heappop(self.heap)
            count = self.pairs.get(pair, 0)
            if count != -negative:
                if count >= min_frequency:
                    heapq.heappush(self.heap, self._entry(pair, count))
                continue
            if count < min_frequency:
                return False
            self._join(pair)
            return True
        return False

    def _join(self, pair: Pair) -> None:
        left, right = pair
        text = self.pieces[left] + self.pieces[right].removeprefix(PREFIX)
        # Another pair may have given the same piece before.
        joined = self.numbers.setdefault(text, len(self.pieces))
        if joined == len(self.pieces):
            self.pieces.append(text)
        grown: set[Pair] = set()
        pairs, words = self.pairs, self.words
        for place in self.places.pop(pair, []):
            word = words[place]
            count = self.counts[place]
            new: list[int] = []
            at, last = 0, len(word) - 1
            while at <= last:
                if at < last and word[at] == left and word[at + 1] == right:
                    new.append(joined)
                    at += 2
                else:
                    new.append(word[at])
                    at += 1
            if len(new) == len(word):
                continue
            for old in itertools.pairwise(word):
                pairs[old] -= count
            for fresh in itertools.pairwise(new):
                pairs[fresh] += count
                if joined in fresh:
                    grown.add(fresh)
                    self.places[fresh].append(place)
            words[place] = new
        pairs.pop(pair, None)
        for fresh in grown:
            if pairs[fresh] > 0:
                heapq.heappush(self.heap, self._entry(fresh, pairs[fresh]))
