"""One vector a word or character of the user's own, for taggers on top.

A unit's vector is the mean (or the first) of the vectors of all pieces that share a character with it. So characters
inside one piece share its vector, and an unknown word has that of its [UNK]. A unit of which the tokenizer keeps
nothing (a zero-width character, an empty string) has the vector of the piece before it, at a text's beginning that of
[CLS]. Nothing is cut: a text that is too long goes through the model in windows that share half of their tokens, and
each piece's vector is from the window in which it is farthest from a cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np

from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder

Span: TypeAlias = tuple[int, int]

_TEXTS = 256


def word_vectors(
    encoder: Encoder, sentences: Iterable[Sequence[str]], how: Literal["mean", "first"] = "mean"
) -> Iterator[np.ndarray]:
    """Yield (words, W) float32 of each sentence; its words are joined with spaces.

    Raises:
        InputError: a sentence is a string, or a word is none.
    """
    return span_vectors(encoder, map(_with_spans, itertools.count(1), sentences), how)


def span_vectors(
    encoder: Encoder, texts: Iterable[tuple[str, Sequence[Span]]], how: Literal["mean", "first"] = "mean"
) -> Iterator[np.ndarray]:
    """Yield (units, W) float32 for each text and the units in it: spans of characters, (start, end).

    Raises:
        InputError: a span is not inside its text.
    """
    numbered = enumerate(texts, start=1)
    while chunk := list(itertools.islice(numbered, _TEXTS)):
        yield from _of_texts(encoder, chunk, how)


def _with_spans(number: int, words: Sequence[str]) -> tuple[str, list[Span]]:
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise InputError(f"sentence {number} is not a list of words; expected a list of strings")
    ends = list(itertools.accumulate((len(word) + 1 for word in words), initial=0))
    return " ".join(words), [(start, start + len(word)) for start, word in zip(ends, words, strict=False)]


def _of_texts(
    encoder: Encoder, chunk: list[tuple[int, tuple[str, Sequence[Span]]]], how: Literal["mean", "first"]
) -> Iterator[np.ndarray]:
    room = encoder.recipe.max_length - 2
    tokenizer = encoder.tokenizer
    encodings = tokenizer.encode_batch([text for _, (text, _) in chunk])
    windows = [_windows(len(encoding.ids) - 2, room) for encoding in encodings]
    sequences = [
        np.array([tokenizer.cls_id, *encoding.ids[1 + start : 1 + end], tokenizer.sep_id], dtype=np.int64)
        for encoding, own in zip(encodings, windows, strict=True)
        for start, end in own
    ]
    encoded = iter(encoder.token_vectors(sequences))
    for (number, (text, spans)), encoding, own in zip(chunk, encodings, windows, strict=True):
        pieces = _joined([next(encoded) for _ in own], own)
        places = np.array([span for span in encoding.char_spans if span is not None], dtype=np.int64).reshape(-1, 2)
        yield _units(encoder, pieces, places, _checked(spans, text, number), how)


def _windows(tokens: int, room: int) -> list[Span]:
    """Return the parts of ``tokens`` pieces that go through the model, each of at most ``room``."""
    step = max(1, room // 2)
    starts = range(0, max(1, tokens - room + step), step)
    return [(start, min(start + room, tokens)) for start in starts]


def _joined(parts: list[np.ndarray], windows: list[Span]) -> np.ndarray:
    """Return (1 + tokens, W): [CLS] of the first window, then each piece from the window that shows most around it."""
    total = windows[-1][1]
    found = np.empty((1 + total, parts[0].shape[1]), dtype=np.float32)
    found[0] = parts[0][0]
    best = np.full(total, -1)
    for part, (start, end) in zip(parts, windows, strict=True):
        place = np.arange(start, end)
        before = place - start if start else np.full(len(place), total)
        after = end - 1 - place if end < total else np.full(len(place), total)
        context = np.minimum(before, after)
        better = context > best[start:end]
        best[start:end][better] = context[better]
        found[1 + start : 1 + end][better] = part[1:-1][better]
    return found


def _checked(spans: Sequence[Span], text: str, number: int) -> np.ndarray:
    array = np.array(spans, dtype=np.int64).reshape(-1, 2)
    wrong = (array[:, 0] < 0) | (array[:, 1] < array[:, 0]) | (array[:, 1] > len(text))
    if wrong.any():
        seen = tuple(array[wrong][0].tolist())
        raise InputError(f"text {number} has {len(text)} characters, and the span {seen} is not inside it")
    return array


def _units(
    encoder: Encoder, pieces: np.ndarray, places: np.ndarray, spans: np.ndarray, how: Literal["mean", "first"]
) -> np.ndarray:
    """Return the units' vectors from those of [CLS] and of the pieces, whose characters are ``places`` (tokens, 2)."""
    firsts = np.searchsorted(places[:, 1], spans[:, 0], side="right")
    lasts = np.searchsorted(places[:, 0], spans[:, 1], side="left")
    vectors = np.empty((len(spans), pieces.shape[1]), dtype=np.float32)
    for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        if last <= first:
            vectors[number] = pieces[first]  # the piece before, or [CLS]
        else:
            vectors[number] = pieces[1 + first] if how == "first" else pieces[1 + first : 1 + last].mean(0)
    if encoder.recipe.normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors
