"""Vectors of the user's own words and characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.features.words import span_vectors, word_vectors
from tests.features.small import HIDDEN, POSITIONS


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder.load(model, tokens=True, threads=1)


def tokens(encoder: Encoder, text: str) -> np.ndarray:
    """(t, W), with [CLS] and [SEP]."""
    (part,) = encoder.stream([text], tokens=True)
    return part.vectors


def test_a_word_is_the_mean_or_the_first_of_its_pieces(encoder: Encoder) -> None:
    words = ["abc", "d", "좋아", "."]
    pieces = tokens(encoder, "abc d 좋아 .")
    assert len(pieces) == 3 + 1 + 2 + 1 + 2
    (mean,) = word_vectors(encoder, [words])
    (first,) = word_vectors(encoder, [words], "first")
    expected = np.stack([pieces[1:4].mean(0), pieces[4], pieces[5:7].mean(0), pieces[7]])
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_allclose(first, pieces[[1, 4, 5, 7]], atol=1e-5)


def test_every_word_has_a_vector(encoder: Encoder) -> None:
    # Nothing is left of a zero-width character; 🙂 and zz are unknown, and there is a word of no characters.
    words = ["\u200b", "ab", "", "🙂", "\u200b", "zz"]
    pieces = tokens(encoder, " ".join(words))
    assert len(pieces) == 1 + 2 + 1 + 1 + 1
    (vectors,) = word_vectors(encoder, [words])
    cls, a, b, smile, zz = pieces[:-1]
    expected = np.stack([cls, (a + b) / 2, b, smile, smile, zz])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_characters_of_a_text(encoder: Encoder) -> None:
    text = "좋아 zz a"  # zz is one unknown piece
    pieces = tokens(encoder, text)
    (vectors,) = span_vectors(encoder, [(text, [(n, n + 1) for n in range(len(text))])])
    # The spaces have the piece before them.
    np.testing.assert_allclose(vectors, pieces[[1, 2, 2, 3, 3, 3, 4]], atol=1e-5)


def test_decomposed_hangul(encoder: Encoder) -> None:
    text = "좋\u1103a"  # decomposed syllables: a piece covers several characters
    (vectors,) = span_vectors(encoder, [(text, [(0, 1), (0, len(text))])])
    assert np.isfinite(vectors).all()


def test_long_sentences_go_through_in_windows(encoder: Encoder) -> None:
    room = POSITIONS - 2
    short, long = ["a"] * room, ["abcd"[n % 4] for n in range(3 * room + 5)]
    given = [short, long, [], ["b"]]
    vectors = list(word_vectors(encoder, given))
    assert [v.shape for v in vectors] == [(len(words), HIDDEN) for words in given]
    np.testing.assert_allclose(vectors[0], tokens(encoder, " ".join(short))[1:-1], atol=1e-5)
    # The beginning and the end are those of the first and the last window.
    step = room // 2
    beginning = tokens(encoder, " ".join(long[:room]))[1:-1]
    np.testing.assert_allclose(vectors[1][:step], beginning[:step], atol=1e-5)
    windows = range(0, len(long) - room + step, step)
    np.testing.assert_allclose(vectors[1][-3:], tokens(encoder, " ".join(long[windows[-1] :]))[-4:-1], atol=1e-5)


def test_company_does_not_matter(encoder: Encoder) -> None:
    sentences = [["ab"] * (n % 50) for n in range(300)]
    vectors = list(word_vectors(encoder, sentences))
    for n in range(0, 300, 37):
        (alone,) = word_vectors(encoder, [sentences[n]])
        np.testing.assert_allclose(vectors[n], alone, atol=1e-5)


def test_normalised_words(model: Path) -> None:
    (vectors,) = word_vectors(Encoder.load(model, tokens=True, normalize=True), [["abc", "d"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_what_is_no_word_or_span(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="sentence 2 is not a list of words"):
        list(word_vectors(encoder, [["a"], "a b"]))
    with pytest.raises(InputError, match=r"text 1 has 3 characters, and the span \(2, 4\)"):
        list(span_vectors(encoder, [("abc", [(0, 1), (2, 4)])]))
