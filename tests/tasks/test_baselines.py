"""What stands beside a fine-tuned model: the most frequent label, and TF-IDF with logistic regression."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from bertsmith.tasks import baselines
from bertsmith.tasks.classify import label_names
from bertsmith.tasks.task import Source
from bertsmith.tasks.texts import TextRows, read_texts

GRAMS: tuple[baselines.Grams, ...] = ("characters", "words and characters")
DATA = Path(__file__).parents[3] / "shared" / "data" / "classify"


def rows(*pairs: tuple[str, str]) -> TextRows:
    return TextRows(
        [text for text, _ in pairs], [label for _, label in pairs], list(range(2, len(pairs) + 2)), Path("a.csv")
    )


@pytest.fixture
def train() -> TextRows:
    good = [(f"정말 좋은 하루 {n}", "good") for n in range(9)]
    return rows(*good, *((f"너무 나쁜 저녁 {n}", "bad") for n in range(6)))


@pytest.fixture
def dev() -> TextRows:
    return rows(("좋은 아침", "good"), ("나쁜 꿈", "bad"), ("나쁜 말", "bad"))


def test_majority_goes_by_the_training_rows(train: TextRows, dev: TextRows) -> None:
    scores = baselines.majority(train, dev, label_names(train, dev))
    assert scores.metrics["accuracy"] == pytest.approx(1 / 3)
    assert scores.confusion == [[0, 2], [0, 1]]
    assert scores.collapsed


@pytest.mark.parametrize("grams", GRAMS)
def test_tfidf_learns_and_repeats_itself(train: TextRows, dev: TextRows, grams: baselines.Grams) -> None:
    labels = label_names(train, dev)
    first, again = (baselines.tfidf(train, dev, labels, grams) for _ in range(2))
    assert first.metrics["accuracy"] == 1.0
    assert asdict(first) == asdict(again)


@pytest.mark.parametrize("grams", GRAMS)
def test_rows_that_share_no_gram_and_hold_no_long_word(grams: baselines.Grams) -> None:
    train = rows(("ㅋ", "good"), ("!", "bad"))
    scores = baselines.tfidf(train, rows(("ㅋ", "good"), ("!", "bad"), ("?", "bad")), ("bad", "good"), grams)
    assert scores.confusion[0][0] >= 1
    assert scores.confusion[1] == [0, 1]


def test_real_rows() -> None:
    folder = DATA / "en_polarity"
    if not folder.is_dir():
        pytest.skip("../shared/data/classify is not there")
    columns = {"text": "text", "label": "label"}
    train = read_texts(Source(folder / "train.csv", columns, limit=3000))
    dev = read_texts(Source(folder / "dev.csv", columns))
    # All 9,062 rows give 0.78; chance is 0.5.
    assert baselines.tfidf(train, dev, label_names(train, dev)).metrics["macro_f1"] > 0.68
