"""Exact match and F1 of answers, as SQuAD (English) and KorQuAD (Korean) define them, and the threshold of 2.0.

SQuAD: capitals, ASCII punctuation, articles and extra white space do not count; F1 is over words. KorQuAD: some
brackets and quotes count as spaces, capitals, ASCII punctuation and extra white space do not count; F1 is over
characters without spaces, because particles are written onto the words they belong to.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from bertsmith.tasks.qa_files import QuestionRows

LANGUAGES = ("en", "ko")

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_KOREAN_SPACES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))
_HANGUL = re.compile("[가-힣ㄱ-ㆎᄀ-ᇿ]")
_KOREAN_SHARE = 0.3


def normalize(text: str, language: str) -> str:
    """Return what of an answer counts.

    Args:
        text: an answer.
        language: "en" for SQuAD's rules, "ko" for KorQuAD's.
    """
    if language == "ko":
        return " ".join(text.translate(_KOREAN_SPACES).lower().translate(_NO_PUNCTUATION).split())
    # Articles go after the punctuation: "a-the" is one word by then.
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def compare(answer: str, gold: str, language: str) -> tuple[float, float]:
    """Return (exact match, F1) of an answer and one right answer; F1 is 1 if nothing of both counts."""
    given, right = normalize(answer, language), normalize(gold, language)
    exact = float(given == right)
    ours, theirs = _units(given, language), _units(right, language)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return exact, exact
    precision, recall = same / len(ours), same / len(theirs)
    return exact, 2 * precision * recall / (precision + recall)


def _units(normalized: str, language: str) -> list[str]:
    return list(normalized.replace(" ", "")) if language == "ko" else normalized.split()


def score_answer(answer: str, golds: Iterable[str], language: str) -> tuple[float, float]:
    """Return the best (exact match, F1) over all right answers.

    As in SQuAD 2.0, right answers of which nothing counts are left aside; where none remains, or there is none
    because the question is impossible, only the empty answer is right.
    """
    usable = [gold for gold in golds if normalize(gold, language)] or [""]
    scores = [compare(answer, gold, language) for gold in usable]
    return max(exact for exact, _ in scores), max(f1 for _, f1 in scores)


def score_answers(answers: Sequence[str], rows: QuestionRows, language: str) -> np.ndarray:
    """Return (rows, 2) float64: exact match and F1 of each answer."""
    return np.array(
        [
            score_answer(answer, [gold.text for gold in golds], language)
            for answer, golds in zip(answers, rows.answers, strict=True)
        ]
    ).reshape(-1, 2)


def best_threshold(differences: np.ndarray, answered: np.ndarray, empty: np.ndarray) -> tuple[float, float]:
    """Choose from which difference on a question is taken to be impossible.

    The difference is the score of "no answer" minus that of the best span; a question gets the empty answer if it
    is greater than the threshold. All thresholds that make a difference on these rows are tried.

    Args:
        differences: (rows,) float64; infinite where there is no span at all.
        answered: (rows,) what each row scores with its best span.
        empty: (rows,) what it scores with the empty answer.

    Returns:
        The threshold, midway between two differences so that rounding does not move a row over it (the lowest of
        equally good ones), and the mean score with it.
    """
    total = float(empty.sum())
    finite = np.isfinite(differences)
    values, place = np.unique(differences[finite], return_inverse=True)
    if len(values) == 0:
        return 0.0, total / max(len(empty), 1)
    gains = np.bincount(place, weights=(answered - empty)[finite], minlength=len(values))
    # totals[k]: with the k lowest differences answered.
    totals = total + np.concatenate([[0.0], np.cumsum(gains)])
    # Sums of thirds differ in their last digits; equally good is equally good.
    best = int(np.flatnonzero(totals >= totals.max() - 1e-9)[0])
    if best == 0:
        threshold = float(values[0]) - 1
    elif best == len(values):
        threshold = float(values[-1]) + 1
    else:
        low, high = float(values[best - 1]), float(values[best])
        middle = low + (high - low) / 2
        threshold = middle if middle < high else low
    return threshold, float(totals[best]) / len(empty)


def detect_language(rows: QuestionRows) -> str:
    """Return "ko" if at least three tenths of the letters in questions and contexts are Hangul, else "en"."""
    letters = hangul = 0
    for text in dict.fromkeys([*rows.questions, *rows.contexts]):
        hangul += len(_HANGUL.findall(text))
        letters += sum(map(str.isalpha, text))
    return "ko" if hangul and hangul >= _KOREAN_SHARE * letters else "en"
