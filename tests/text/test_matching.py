from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from bertsmith.text.matching import WordMatcher, stands_alone

OWN = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False, lowercase=False)])
NORMALIZERS = [OWN, normalizers.BertNormalizer(lowercase=True), normalizers.BertNormalizer(lowercase=False)]
CHARACTERS = [chr(code) for code in range(33, 0x20000) if stands_alone(chr(code))]


def backend(tokens: list[str], normalizer: normalizers.Normalizer, longest: int = 100) -> tokenizers.Tokenizer:
    tokens = list(dict.fromkeys(["[UNK]", *tokens]))
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {token: number for number, token in enumerate(tokens)},
            unk_token="[UNK]",
            max_input_chars_per_word=longest,
            continuing_subword_prefix="##",
        )
    )
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    return made


def expected(made: tokenizers.Tokenizer, words: list[str]) -> list[list[int]]:
    return [e.ids for e in made.encode_batch_fast(words, add_special_tokens=False)]


def cut(matcher: WordMatcher, words: list[str]) -> list[list[int] | None]:
    ids, lengths, known = matcher.ids(words)
    assert ids.dtype == lengths.dtype == np.int64
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    return [part.tolist() if k else None for part, k in zip(parts, known, strict=True)]


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=["own", "lower", "cased"])
def test_every_character_beside_others(normalizer: normalizers.Normalizer) -> None:
    forms = {c: normalizer.normalize_str(c).strip() for c in CHARACTERS}
    # Every fifth character is missing, so that there are unknown words.
    known = [form for number, form in enumerate(forms.values()) if len(form) == 1 and number % 5]
    made = backend(["a", "##b", *known, *(f"##{form}" for form in known)], normalizer)
    rng = np.random.default_rng(0)
    others = rng.permutation(CHARACTERS)
    words = [f"a{c}{other}b" for c, other in zip(CHARACTERS, others, strict=True)]
    found = cut(WordMatcher(made), words)
    right = expected(made, words)
    assert all(mine is None or mine == theirs for mine, theirs in zip(found, right, strict=True))
    # Lower-casing with accents stripped takes Hangul apart: one character becomes three, which is left out.
    share = sum(mine is not None for mine in found) / len(found)
    assert share > (0.5 if normalizer is NORMALIZERS[1] else 0.98)


def test_what_stands_alone_composes_with_nothing() -> None:
    seconds = set()
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    assert len(seconds) > 50
    assert not any(stands_alone(c) for c in seconds)
    assert not any(stands_alone(c) for c in "\u1161\u11a8\u0301\u3099\u200d\ufe0f\x00 \u00a0\ud800\U00016d67")
    assert all(stands_alone(c) for c in "aZ0é가ㅋ中カ,.。“”…ß😀")


def test_longest_piece_first_long_words_and_unknown_words() -> None:
    tokens = ["a", "ab", "abc", "##a", "##b", "##c", "##bc", "##bca", "b", "##", "##ab", ".", "한", "##국"]
    made = backend(tokens, OWN, longest=8)
    words = ["abcabca", "abab", "abd", "da", "", "b", "ba" * 4, "ba" * 4 + "b", "a.b", "...", "한국", "국", "한국.ab"]
    assert cut(WordMatcher(made), words) == expected(made, words)
    rng = np.random.default_rng(1)
    many = ["".join(rng.choice(list("abcd."), rng.integers(0, 14))) for _ in range(3000)]
    assert cut(WordMatcher(made), many) == expected(made, many)
    assert cut(WordMatcher(made), [""]) == [[]]


def test_what_is_left_to_the_tokenizer() -> None:
    made = backend(["a", "##b", "é"], OWN)
    assert cut(WordMatcher(made), ["ab", "a\u0301", "\ud800", "a\tb", "\u1112\u1161", "é", "a\U00020000"]) == [
        [1, 2],
        None,
        None,
        None,
        None,
        [3],
        None,
    ]


def test_without_an_unknown_token_the_tokenizer_answers() -> None:
    made = backend(["a"], OWN)
    made.model.unk_token = "[OTHER]"
    assert cut(WordMatcher(made), ["a", "b"]) == [None, None]
