"""Windows of texts that are longer than a model was tuned for.

Every token is in some window. Windows of a text are about equally long, overlap by about a quarter, and begin and end
between words where they can. In a pair the shorter text stands whole in every window if it fits into half of the room;
otherwise windows of both go along together. What a model says of a text is the mean of its outputs over the windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from bertsmith.errors import InputError
from bertsmith.tasks.task import Outputs
from bertsmith.text.tokenizer import Tokenizer

_OVERLAP = 4
"""Windows of n tokens share n divided by this, before their ends move to where words end."""

Encoded: TypeAlias = tuple[list[int], list[int]]
"""Token ids with special tokens, and segment ids."""


def encode_windows(group: Sequence[Sequence[np.ndarray]], max_length: int, tokenizer: Tokenizer) -> list[list[Encoded]]:
    """Return for each window the sequences of a group, with special tokens.

    Args:
        group: what goes through as many windows together: a text or a pair alone, or a context with each of its
            endings. Each is one or two arrays of token ids without special tokens, all of the same number.
        max_length: tokens in a sequence, with special tokens.
        tokenizer: says where words begin.

    Raises:
        InputError: ``max_length`` leaves no room for a token.
    """
    parts = len(group[0])
    room = max_length - 1 - parts
    if room < parts:
        raise InputError(f"max_length {max_length} leaves no room for text beside the special tokens")
    shares = _shares([max(len(texts[part]) for texts in group) for part in range(parts)], room)
    needed = (_count(len(ids), share) for texts in group for ids, share in zip(texts, shares, strict=True))
    count = max(needed)
    pieces = [
        [_spread(tokenizer.starts_word[ids], share, count) for ids, share in zip(texts, shares, strict=True)]
        for texts in group
    ]
    return [
        [
            _sequence([ids[slice(*own[n])] for ids, own in zip(texts, places, strict=True)], tokenizer)
            for texts, places in zip(group, pieces, strict=True)
        ]
        for n in range(count)
    ]


def merged(outputs: Outputs, windows: Sequence[int]) -> Outputs:
    """Return one array a row: the mean of its windows' outputs."""
    if len(outputs) == len(windows):
        return outputs
    arrays = iter(outputs)
    return [np.mean([next(arrays) for _ in range(count)], axis=0) for count in windows]


def _sequence(parts: Sequence[np.ndarray], tokenizer: Tokenizer) -> Encoded:
    ids, segments = [tokenizer.cls_id], [0]
    for segment, part in enumerate(parts):
        ids += [*part.tolist(), tokenizer.sep_id]
        segments += [segment] * (len(part) + 1)
    return ids, segments


def _shares(lengths: Sequence[int], room: int) -> list[int]:
    """Return how many tokens each of one or two parts may have in a window of ``room`` tokens.

    The shorter of two gets what it has, up to half of the room; the other one gets the rest.
    """
    if len(lengths) == 1:
        return [room]
    first, second = lengths
    own = min(first, second, room // 2)
    return [own, room - own] if first <= second else [room - own, own]


def _count(length: int, share: int) -> int:
    """Return how many windows of ``share`` tokens a part of ``length`` needs; 1 if it fits."""
    return 1 if length <= share else 1 + math.ceil((length - share) / (share - share // _OVERLAP))


def _spread(may_begin: np.ndarray, share: int, count: int) -> list[tuple[int, int]]:
    """Return first token and last + 1 of a part's piece in each of ``count`` windows.

    A part that needs fewer windows than there are stays in each of its own for several of them.

    Args:
        may_begin: (length,) whether a token begins a word.
        share: tokens that fit.
        count: windows there are, at least as many as :func:`_count` says.
    """
    length = len(may_begin)
    own = _count(length, share)
    if own == 1:
        return [(0, length)] * count
    slack = share // _OVERLAP // 2
    pieces = []
    for number in range(own):
        start = round(number * (length - share) / (own - 1))
        pieces.append((_forward(may_begin, start, slack), _back(may_begin, start + share, slack)))
    return [pieces[number * own // count] for number in range(count)]


def _forward(may_begin: np.ndarray, place: int, slack: int) -> int:
    """Return the first word's beginning from ``place`` on, at most ``slack`` tokens away; else ``place``."""
    if place == 0:
        return 0
    near = np.flatnonzero(may_begin[place : place + slack + 1])
    return place + int(near[0]) if len(near) else place


def _back(may_begin: np.ndarray, place: int, slack: int) -> int:
    """Return the last place not after ``place`` where a word ends, at most ``slack`` tokens before; else ``place``."""
    if place >= len(may_begin):
        return len(may_begin)
    near = np.flatnonzero(may_begin[place - slack : place + 1])
    return place - slack + int(near[-1]) if len(near) else place
