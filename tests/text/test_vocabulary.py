"""The learner against a slow one written out plainly, and the stage around it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bertsmith.config import VocabularySettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text.tokenizer import PREFIX, SPECIAL_TOKENS, Tokenizer
from bertsmith.text.vocabulary import WordCounter, learn_vocabulary, measure_fit, script
from bertsmith.text.wordpiece import choose_alphabet, learn_pieces
from tests.conftest import made_up_text

QUIET = Log(quiet=True)


def plain_learner(counts: dict[str, int], size: int) -> list[str]:
    """Count all pairs anew for every join."""
    words = {word: [word[0], *(PREFIX + c for c in word[1:])] for word in counts}
    initial = sorted({word[0] for word in counts})
    inner = sorted({c for word in counts for c in word[1:]})
    pieces = [*SPECIAL_TOKENS, *initial, *(PREFIX + c for c in inner)]
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += counts[word]
        best = min(pairs.items(), key=lambda item: (-item[1], item[0]), default=None)
        if best is None or best[1] < 2:
            break
        (left, right), _ = best
        joined = left + right.removeprefix(PREFIX)
        for word, parts in words.items():
            new, at = [], 0
            while at < len(parts):
                if parts[at : at + 2] == [left, right]:
                    new.append(joined)
                    at += 2
                else:
                    new.append(parts[at])
                    at += 1
            words[word] = new
        if joined not in pieces:
            pieces.append(joined)
    return pieces


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_the_plain_learner(seed: int) -> None:
    counts = Counter(made_up_text(40, seed).replace(".", " ").split())
    counts |= Counter({"aaaaaa": 5, "aaabaaab": 3, "ababab": 4, "한국어한국어": 7})
    for size in (60, 90, 133, 4000):
        if size > 60 + len(SPECIAL_TOKENS):
            assert learn_pieces(counts, size, special_tokens=SPECIAL_TOKENS) == plain_learner(counts, size)


def test_byte_identical_under_any_hash_seed(corpus_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bertsmith import learn_vocabulary\n"
        "from bertsmith.config import VocabularySettings; from bertsmith.console import Log\n"
        "learn_vocabulary(VocabularySettings(corpus=[Path(sys.argv[1])], size=150, output=Path(sys.argv[2])), "
        "Log(True))"
    )
    written = []
    for seed, threads in (("1", "1"), ("77", "3")):
        output = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, corpus_file, output], env=environment, check=True)
        written.append([(output / name).read_bytes() for name in ("vocab.txt", "tokenizer.json", "report.json")])
    assert written[0] == written[1]


def test_the_alphabet_follows_coverage() -> None:
    counts = {"aaa": 30, "bb": 4, "c": 2}
    assert choose_alphabet(counts, 0.9) == {"a"}
    assert choose_alphabet(counts, 0.95) == {"a", "b"}
    assert choose_alphabet(counts, 1.0) == {"a", "b", "c"}


def test_too_small_for_the_alphabet_says_what_would_do() -> None:
    with pytest.raises(InputError, match=r"5 special tokens, 2 initial and 2 inner.* at least 9\. .*coverage"):
        learn_pieces({"ab": 2, "ba": 2}, 8, special_tokens=SPECIAL_TOKENS)
    assert len(learn_pieces({"ab": 1, "ba": 1}, 9, special_tokens=SPECIAL_TOKENS)) == 9


def test_counting_raw_words_first_equals_counting_normalised_ones() -> None:
    text = "Hello, WORLD! don't 한국어(韓國語)입니다 naïve\u0301 e\u0301té 漢字 [MASK] x\u200by ㅋㅋㅋ~ 3.14%"
    counter = WordCounter(lowercase=True, max_words=1000)
    counter.add(text + "\n" + text)
    tokens = [*SPECIAL_TOKENS, "a"]
    backend = Tokenizer.from_tokens(tokens, lowercase=True)._plain
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    assert counter.counts() == Counter({w: 2 * c for w, c in Counter(word for word, _ in words).items()})


def test_rare_words_are_dropped_at_the_bound() -> None:
    counter = WordCounter(lowercase=False, max_words=20)
    counter.add(" ".join(["often"] * 50 + ["also"] * 30))
    for n in range(100):
        counter.add(f"rare{n}")
    assert counter.pruned_below > 0
    counts = counter.counts()
    assert len(counts) <= 20
    assert (counts["often"], counts["also"]) == (50, 30)


def test_what_the_stage_writes(vocabulary: Path) -> None:
    tokenizer = Tokenizer.load(vocabulary)
    assert tokenizer.tokens[:5] == list(SPECIAL_TOKENS)
    assert tokenizer.vocab_size <= 137
    assert VocabularySettings.from_yaml(vocabulary / "config.yaml").size == 137
    assert tokenizer.encode("고양이는 the river").ids.count(tokenizer.unk_id) == 0


def test_the_fit_counts_words_and_scripts() -> None:
    tokenizer = Tokenizer.from_tokens([*SPECIAL_TOKENS, "a", "##b", "가"], lowercase=False)
    fit = measure_fit(tokenizer, ["a ab 가 나", "a"])
    assert fit.words == 5
    assert fit.unknown_rate == pytest.approx(1 / 5)
    assert fit.tokens_per_word == pytest.approx(6 / 5)
    assert fit.scripts["Hangul"] == {"share": pytest.approx(2 / 6), "covered": pytest.approx(1 / 2)}


def test_scripts() -> None:
    assert [script(c) for c in "한ㅋaé漢の3%~я\u0301"] == [
        *("Hangul", "Hangul", "Latin", "Latin", "Han", "Kana", "digits", "punctuation", "punctuation"),
        *("Cyrillic", "other"),
    ]


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InputError, match="empty"):
        learn_vocabulary(VocabularySettings(corpus=[tmp_path / "empty.txt"], output=tmp_path / "v"), QUIET)
    (tmp_path / "blank.txt").write_text(" \n\n \n")
    with pytest.raises(InputError, match=r"no words|no text|empty"):
        learn_vocabulary(VocabularySettings(corpus=[tmp_path / "blank.txt"], output=tmp_path / "v"), QUIET)
    assert not (tmp_path / "v").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.doc").write_text("precious")
    (tmp_path / "a.txt").write_text("some words here")
    with pytest.raises(InputError, match="not a vocabulary"):
        learn_vocabulary(VocabularySettings(corpus=[tmp_path / "a.txt"], output=tmp_path / "taken"), QUIET)
    assert (tmp_path / "taken" / "thesis.doc").read_text() == "precious"
    for output in (tmp_path / "a.txt", tmp_path / "a.txt" / "below"):
        with pytest.raises(InputError, match="is a file"):
            learn_vocabulary(VocabularySettings(corpus=[tmp_path / "a.txt"], output=output), QUIET)


def test_only_what_this_command_wrote_is_replaced(corpus_file: Path, tmp_path: Path) -> None:
    settings = VocabularySettings(corpus=[corpus_file], size=120, output=tmp_path / "v")
    learn_vocabulary(settings, QUIET)
    learn_vocabulary(settings.model_copy(update={"size": 130}), QUIET)
    assert VocabularySettings.from_yaml(tmp_path / "v" / "config.yaml").size == 130
    (tmp_path / "v" / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match=r"holds something beside a vocabulary \(notes\.txt\)"):
        learn_vocabulary(settings, QUIET)
    assert (tmp_path / "v" / "notes.txt").read_text() == "precious"
