"""Exact match, F1 and the threshold, against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.tasks.qa_files import GoldAnswer, QuestionRows
from bertsmith.tasks.qa_metrics import (
    best_threshold,
    compare,
    detect_language,
    normalize,
    score_answer,
    score_answers,
)


def rows_of(*answers: tuple[str, ...], question: str = "?", context: str = "text") -> QuestionRows:
    n = len(answers)
    golds = [tuple(GoldAnswer(text, 0) for text in texts) for texts in answers]
    return QuestionRows([""] * n, [question] * n, [context] * n, golds, [""] * n, [0] * n, Path("-"))


@pytest.mark.parametrize(
    ("text", "english", "korean"),
    [
        ("The  Red-House, a mill!", "redhouse mill", "the redhouse a mill"),
        ("an Anthem of the\tthen", "anthem of then", "an anthem of the then"),
        ("A.", "", "a"),
        ("“the”mill", "“ ”mill", "“the”mill"),
        ("《춘향전》(1955년)", "《춘향전》1955년", "춘향전 1955년"),
        ("‘서울’의\n'봄'", "‘서울’의 봄", "서울 의 봄"),
        ("3.1 운동", "31 운동", "31 운동"),
    ],
)
def test_normalisation(text: str, english: str, korean: str) -> None:
    assert normalize(text, "en") == english
    assert normalize(text, "ko") == korean


@pytest.mark.parametrize(
    ("answer", "gold", "language", "exact", "f1"),
    [
        ("the north harbour", "North Harbour.", "en", 1, 1),
        ("the old north harbour", "harbour", "en", 0, 2 * (1 / 3) * 1 / (4 / 3)),
        ("mill mill", "mill house mill", "en", 0, 2 * 1 * (2 / 3) / (5 / 3)),
        ("river", "harbour", "en", 0, 0),
        ("", "harbour", "en", 0, 0),
        ("the", "", "en", 1, 1),
        ("임금님이", "임금님", "ko", 0, 2 * (3 / 4) / (7 / 4)),
        ("임금님이", "임금님", "en", 0, 0),
        ("서울 시청", "서울시청", "ko", 0, 1),
        ("<서울> 시청", "'서울' 시청", "ko", 1, 1),
    ],
)
def test_comparison(answer: str, gold: str, language: str, exact: float, f1: float) -> None:
    assert compare(answer, gold, language) == (exact, pytest.approx(f1))


def test_the_best_of_several_answers_counts() -> None:
    assert score_answer("north harbour", ["harbour", "the north harbour", "north"], "en") == (1, 1)
    exact, f1 = score_answer("old north harbour", ["harbour", "north harbour"], "en")
    assert (exact, f1) == (0, pytest.approx(0.8))


def test_impossible_questions_want_the_empty_answer() -> None:
    assert score_answer("", [], "en") == (1, 1)
    assert score_answer("harbour", [], "en") == (0, 0)
    # An answer of which nothing counts is no answer, unless there are others.
    assert score_answer("", ["the"], "en") == (1, 1)
    assert score_answer("", ["the", "mill"], "en") == (0, 0)
    found = score_answers(["mill", "", "mill"], rows_of(("mill",), (), ()), "en")
    assert found.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert score_answers([], rows_of(), "en").shape == (0, 2)


@settings(deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["en", "ko"]))
def test_f1_is_symmetric_and_at_least_the_exact_match(a: str, b: str, language: str) -> None:
    exact, f1 = compare(a, b, language)
    assert exact <= f1 <= 1
    assert compare(b, a, language) == (exact, pytest.approx(f1))
    assert compare(a, a, language) == (1, 1)


def test_a_threshold_by_hand() -> None:
    differences = np.array([-4.0, -1.0, 2.0, 5.0])
    # Answered well, impossible, answered half, impossible.
    answered, empty = np.array([1.0, 0.0, 0.5, 0.0]), np.array([0.0, 1.0, 0.0, 1.0])
    threshold, best = best_threshold(differences, answered, empty)
    assert threshold == -2.5
    assert best == 3 / 4
    assert best_threshold(differences, np.ones(4), np.zeros(4)) == (6, 1)
    assert best_threshold(differences, np.zeros(4), np.ones(4)) == (-5, 1)
    assert best_threshold(np.full(2, np.inf), np.zeros(2), np.ones(2)) == (0, 1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.1, 0.2, 1.0, 3.5, np.inf]), st.booleans(), st.floats(0, 1)), min_size=1)
)
def test_no_threshold_is_better(rows: list[tuple[float, bool, float]]) -> None:
    differences = np.array([difference for difference, _, _ in rows])
    empty = np.array([float(impossible) for _, impossible, _ in rows])
    answered = np.array([0.0 if impossible or d == np.inf else f1 for d, impossible, f1 in rows])

    def mean(threshold: float) -> float:
        return float(np.where(differences > threshold, empty, answered).mean())

    threshold, best = best_threshold(differences, answered, empty)
    assert best == pytest.approx(mean(threshold), abs=1e-8)
    assert all(mean(other) <= best + 1e-8 for other in [-9.0, *differences.tolist()])


@pytest.mark.parametrize("low", [0.1, float(np.nextafter(0.1, 1))])
def test_neighbouring_differences_are_told_apart(low: float) -> None:
    high = float(np.nextafter(low, 1))
    threshold, best = best_threshold(np.array([low, high]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert low <= threshold < high
    assert best == 1


def test_language() -> None:
    english, korean = "The harbour was built in 1871.", "전주 시장은 1473년에 처음 열렸다."
    assert detect_language(rows_of((), question="When?", context=english)) == "en"
    assert detect_language(rows_of((), question="언제?", context=korean)) == "ko"
    assert detect_language(rows_of((), question="언제?", context=english * 9)) == "en"
    assert detect_language(rows_of((), question="언제?", context=korean + " Jeonju Market")) == "ko"
    assert detect_language(rows_of((), question="?", context="1871")) == "en"
