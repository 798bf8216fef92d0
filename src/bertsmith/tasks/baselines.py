"""What a user would have without BERT: the most frequent label, and TF-IDF with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from bertsmith.tasks.scores import Scores, label_scores
from bertsmith.tasks.texts import TextRows, shown

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Grams = Literal["characters", "words and characters"]

_MANY_ROWS = 1000


def majority(train: TextRows, dev: TextRows, labels: Sequence[str]) -> Scores:
    """Give every dev row the most frequent training label."""
    numbers = {name: number for number, name in enumerate(labels)}
    counts = np.bincount([numbers[name] for name in train.labels], minlength=len(labels))
    gold = np.array([numbers[name] for name in dev.labels])
    return label_scores(gold, np.full(len(gold), counts.argmax()), labels)


def tfidf(
    train: TextRows, dev: TextRows, labels: Sequence[str], grams: Grams = "characters", c: float = 10.0
) -> Scores:
    """Score TF-IDF features with a logistic regression, fitted on the training rows.

    Args:
        train: rows to fit on.
        dev: rows to score.
        labels: names of the labels.
        grams: character 1-4-grams, alone or with word 1-2-grams.
        c: inverse strength of the regularisation. A fixed value: the baseline is not tuned to any data set.
    """
    model = tfidf_model(len(train.texts), grams, c)
    numbers = {name: number for number, name in enumerate(labels)}
    model.fit([shown(text) for text in train.texts], [numbers[name] for name in train.labels])
    gold = np.array([numbers[name] for name in dev.labels])
    return label_scores(gold, np.asarray(model.predict([shown(text) for text in dev.texts])), labels)


def tfidf_model(num_rows: int, grams: Grams, c: float) -> Pipeline:
    """Return TF-IDF features and a logistic regression, not yet fitted; see :func:`tfidf`.

    Args:
        num_rows: that it will be fitted on.
        grams: which features.
        c: inverse strength of the regularisation.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    # Grams of a single row only take memory where there are many rows; where there are few they may be all there is.
    min_rows = 2 if num_rows >= _MANY_ROWS else 1
    features = [TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=min_rows, sublinear_tf=True)]
    if grams == "words and characters":
        # Words of one character and signs count too: much Korean is written with them, and no text is left empty.
        features.append(TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True))
    return make_pipeline(make_union(*features), LogisticRegression(C=c, max_iter=1000))
