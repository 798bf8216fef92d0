from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.text import word_cache
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.text.word_cache import WordCache

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*"abcσςéikl.,!'[]한국어ㅋㅠ中文", *(f"##{c}" for c in "abcσςéikl한국어ㅋㅠ"), "ab", "##bc", "한국", "##국어"]
# What could look across a space: combining marks, decomposed Hangul, other white space, control characters, sigma.
CHARACTERS = "abcikl  .,!'[] AÉéΣσς\u0301\u0327\u1112\u1161\u11ab한국어ㅋㅠ中文\t\u00a0\u200b\u2028\u3000\x00\ufeff😀"


def tokenizer(lowercase: bool, own: bool) -> Tokenizer:
    made = Tokenizer.from_tokens([*SPECIAL, *PIECES], lowercase=lowercase)
    if own:
        return made
    backend = tokenizers.Tokenizer.from_str(made._plain.to_str())
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    return Tokenizer(backend, "test")


def assert_equal(words: WordCache, made: Tokenizer, sentences: list[str]) -> None:
    expected = made.sentence_ids(sentences)
    ids, lengths = words.sentence_ids(sentences)
    assert lengths.tolist() == [len(i) for i in expected]
    assert ids.tolist() == [number for i in expected for number in i.tolist()]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("lowercase", [True, False])
@given(batches=st.lists(st.lists(st.text(CHARACTERS, max_size=30), max_size=6), max_size=4))
@settings(max_examples=150, deadline=None)
def test_ids_are_those_of_the_tokenizer(lowercase: bool, own: bool, batches: list[list[str]]) -> None:
    made = tokenizer(lowercase, own)
    assert made.splits_at_spaces
    words = WordCache(made)
    for sentences in batches:
        assert_equal(words, made, sentences)


def test_full_cache_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "MAX_WORDS", 20)
    made = tokenizer(lowercase=False, own=True)
    words = WordCache(made)
    rng = np.random.default_rng(0)
    for _ in range(30):
        sentences = ["".join(rng.choice(list("abc "), 13)) for _ in range(5)]
        assert_equal(words, made, sentences)
        assert len(words._numbers) <= 20 + 5 * 13


def test_lone_surrogates() -> None:
    made = tokenizer(lowercase=False, own=True)
    assert_equal(WordCache(made), made, ["a \ud800b \udfff", "ab"])


def test_tokenizer_that_looks_across_spaces_gets_whole_sentences() -> None:
    backend = tokenizers.Tokenizer.from_str(tokenizer(lowercase=False, own=True)._plain.to_str())
    backend.normalizer = tokenizers.normalizers.Replace("a b", "c")
    made = Tokenizer(backend, "test")
    assert not made.splits_at_spaces
    assert_equal(WordCache(made), made, ["a b", "b a b a", "a  b"])


def test_every_id_of_real_text() -> None:
    data = Path(__file__).parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("needs the development data")
    for vocabulary in ("bert-base-uncased-vocab.txt", "koelectra_vocab.txt"):
        made = Tokenizer.from_vocabulary(data / "vocab" / vocabulary)
        words = WordCache(made)
        for name in ("ko_reviews.txt", "en_wikipedia.txt"):
            with (data / "raw" / name).open(encoding="utf-8") as file:
                assert_equal(words, made, [line.rstrip("\n") for line, _ in zip(file, range(2000), strict=False)])
