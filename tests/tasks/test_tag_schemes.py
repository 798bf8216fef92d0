"""Schemes of entity tags: detection, spans, and the way from one to another."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks.tag_schemes import (
    Scheme,
    SpanTuple,
    bio_labels,
    convert,
    detect_scheme,
    entity_scores,
    finish_numbers,
    from_spans,
    to_spans,
)

SCHEMES: tuple[Scheme, ...] = ("BIO", "IOB1", "BIOES", "BILOU", "BMES")
KINDS = ("person", "creative-work", "장소")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[SpanTuple], int]:
    """Spans that do not overlap, and the number of units."""
    spans, at = [], 0
    for _ in range(draw(st.integers(0, 5))):
        first = at + draw(st.integers(0, 2))
        at = first + draw(st.integers(1, 4))
        spans.append((first, at, draw(st.sampled_from(KINDS))))
    return spans, at + draw(st.integers(0, 2))


@settings(deadline=None)
@given(sentences(), st.sampled_from(SCHEMES))
def test_spans_come_back_from_tags(sentence: tuple[list[SpanTuple], int], scheme: Scheme) -> None:
    spans, length = sentence
    tags = from_spans(reversed(spans), length, scheme)
    assert len(tags) == length
    assert to_spans(tags, scheme) == spans


@settings(deadline=None)
@given(sentences(), st.permutations(SCHEMES))
def test_a_chain_of_conversions_loses_nothing(sentence: tuple[list[SpanTuple], int], chain: list[Scheme]) -> None:
    spans, length = sentence
    tags = first = from_spans(spans, length, chain[0])
    for source, target in itertools.pairwise([*chain, chain[0]]):
        tags = convert(tags, source, target)
        assert to_spans(tags, target) == spans
    assert tags == first


@settings(deadline=None)
@given(st.lists(st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"]), max_size=9), st.sampled_from(SCHEMES))
def test_any_tags_are_read_and_repairing_twice_is_repairing_once(tags: list[str], target: Scheme) -> None:
    spans = to_spans(tags, "BIO")
    inside = {n for first, last, _ in spans for n in range(first, last)}
    assert inside == {n for n, tag in enumerate(tags) if tag != "O"}
    assert to_spans(convert(tags, "BIO", target), target) == spans


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-x I-x O B-x B-y", "BIO"),
        ("I-x I-x B-x O I-y", "IOB1"),
        ("B-x E-x B-x O S-y", "BIOES"),
        ("B-x L-x U-x O U-y", "BILOU"),
        ("B-x M-x E-x O S-y", "BMES"),
    ],
)
def test_by_hand(tags: str, scheme: Scheme) -> None:
    spans = {
        "BIO": [(0, 2, "x"), (3, 4, "x"), (4, 5, "y")],
        "IOB1": [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")],
        "BIOES": [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")],
        "BILOU": [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")],
        "BMES": [(0, 3, "x"), (4, 5, "y")],
    }
    assert to_spans(tags.split(), scheme) == spans[scheme]
    assert detect_scheme([tags.split()]) == scheme


@pytest.mark.parametrize(
    ("tags", "repaired"),
    [
        ("O I-x I-x", "O B-x I-x"),
        ("B-x I-y I-y", "B-x B-y I-y"),
        ("I-x O I-x", "B-x O B-x"),
    ],
)
def test_inside_without_a_beginning_begins(tags: str, repaired: str) -> None:
    assert convert(tags.split(), "BIO", "BIO") == repaired.split()


def test_ends_that_are_missing_or_come_alone() -> None:
    assert to_spans("B-x I-x O E-y I-y".split(), "BIOES") == [(0, 2, "x"), (3, 4, "y"), (4, 5, "y")]
    assert to_spans("B-x S-x I-x".split(), "BIOES") == [(0, 1, "x"), (1, 2, "x"), (2, 3, "x")]
    assert to_spans("U-x L-x".split(), "BILOU") == [(0, 1, "x"), (1, 2, "x")]


@settings(deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=4), st.sampled_from(SCHEMES))
def test_what_is_detected_reads_the_same_spans(many: list[tuple[list[SpanTuple], int]], scheme: Scheme) -> None:
    sequences = [from_spans(spans, length, scheme) for spans, length in many]
    found = detect_scheme(sequences)
    if not any(spans for spans, _ in many):
        assert found is None
    else:
        assert found is not None
        assert [to_spans(tags, found) for tags in sequences] == [spans for spans, _ in many]


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        ([["O", "B-x"], ["B-y"]], "BIO"),
        ([["O", "I-x"]], "IOB1"),
        # One slip does not make it IOB1: here B also begins where nothing precedes it.
        ([["I-x", "O"], ["B-x", "I-x"]], "BIO"),
        ([["I-x", "B-x"]], "IOB1"),
        ([["B-x", "I-x", "S-x", "O"]], "BIOES"),
        ([["B-x", "E-x"]], "BIOES"),
        ([["NOUN", "VERB"], ["O"]], None),
        ([["O", "O"]], None),
        ([[]], None),
        ([["NN-TL", "AT", "PRP$", "-LRB-"]], None),
        ([["NN-TL", "FW-AT"]], None),
        ([["n-s---fn-", "v3spia---", "u--------"]], None),
    ],
)
def test_detection(sequences: list[list[str]], scheme: Scheme | None) -> None:
    assert detect_scheme(sequences) == scheme


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("O Q-x B-y", r"prefixes B \(B-y\), Q \(Q-x\); expected those of BIO"),
        ("O I-x E-x", r"prefixes E \(E-x\), I \(I-x\)"),
        ("O PER-B LOC-B", r"prefixes LOC \(LOC-B\), PER \(PER-B\)"),
        ("B-x L-x S-x O", "prefixes B .*L .*S"),
        ("B-x I-x 0", "'B-x' and also 0; expected O"),
        ("O B-x NOUN VERB", "'B-x' and also NOUN, VERB"),
    ],
)
def test_tags_of_no_scheme(tags: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        detect_scheme([tags.split()])


def test_a_tag_of_another_scheme() -> None:
    with pytest.raises(InputError, match=r"tag 'E-x' is not of the scheme BIO; expected O or one of B-..., I-..."):
        to_spans(["B-x", "E-x"], "BIO")
    with pytest.raises(InputError, match="tag 'NOUN' is not of the scheme BMES"):
        to_spans(["NOUN"], "BMES")


@pytest.mark.parametrize("spans", [[(0, 2, "x"), (1, 3, "y")], [(2, 2, "x")], [(2, 5, "x")], [(-1, 2, "x")]])
def test_spans_that_no_tags_can_say(spans: list[SpanTuple]) -> None:
    with pytest.raises(ValueError, match="overlaps"):
        from_spans(spans, 4, "BIO")


def test_labels_have_both_prefixes_for_every_type() -> None:
    assert bio_labels(["y", "x", "y"]) == ["O", "B-x", "I-x", "B-y", "I-y"]


# With the labels O, B-x, I-x, B-y, I-y as 0 to 4; what is predicted where there is no token does not matter.
@pytest.mark.parametrize(
    ("numbers", "covered", "shared", "sentences", "finished"),
    [
        ([0, 2, 2, 4], "1111", "0000", "0000", [0, 1, 2, 3]),
        ([1, 9, 2, 9, 9, 1], "101001", "000000", "000000", [1, 2, 2, 0, 0, 1]),
        ([2, 9, 2], "101", "000", "000", [1, 2, 2]),
        ([1, 9, 4, 9, 0], "10101", "00000", "00000", [1, 0, 3, 0, 0]),
        ([9, 2, 9], "010", "000", "000", [0, 1, 0]),
        ([3, 3, 3, 0, 0], "11111", "01101", "00000", [3, 4, 4, 0, 0]),
        ([1, 2], "11", "00", "01", [1, 1]),
        ([1, 9, 2], "101", "000", "001", [1, 0, 1]),
        ([1, 9, 2], "101", "000", "011", [1, 0, 1]),
        ([9, 9], "00", "00", "01", [0, 0]),
    ],
)
def test_tags_of_tokens_become_tags_of_units(
    numbers: list[int], covered: str, shared: str, sentences: str, finished: list[int]
) -> None:
    flags = [np.array([c == "1" for c in text]) for text in (covered, shared)]
    found = finish_numbers(np.array(numbers), *flags, np.array([int(c) for c in sentences]))
    assert found.tolist() == finished


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[list[list[SpanTuple]], list[list[SpanTuple]], list[int]]:
    tags = st.sampled_from(["O", "B-x", "I-x", "B--y-", "I--y-", "B-y", "I-y"])
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    sides = [[to_spans(draw(st.lists(tags, min_size=n, max_size=n)), "BIO") for n in lengths] for _ in range(2)]
    return sides[0], sides[1], lengths


def count_entities(
    gold: Sequence[Sequence[SpanTuple]], predicted: Sequence[Sequence[SpanTuple]]
) -> tuple[dict[str, float], list[tuple[str, float, float, float, int]]]:
    """Return what entity_scores does, written out plainly: spans that occur on both sides."""
    right: Counter[str] = Counter()
    there: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for expected, found in zip(gold, predicted, strict=True):
        there.update(kind for _, _, kind in expected)
        said.update(kind for _, _, kind in found)
        right.update(kind for _, _, kind in set(expected) & set(found))
    rows = [(kind, *_figures(right[kind], said[kind], there[kind]), there[kind]) for kind in sorted(there | said)]
    precision, recall, f1 = _figures(right.total(), said.total(), there.total())
    return {"f1": f1, "precision": precision, "recall": recall}, rows


def _figures(right: int, said: int, there: int) -> tuple[float, float, float]:
    return right / max(said, 1), right / max(there, 1), 2 * right / max(said + there, 1)


@settings(deadline=None)
@given(two_sides())
def test_counting_spans_is_what_seqeval_does(
    sides: tuple[list[list[SpanTuple]], list[list[SpanTuple]], list[int]],
) -> None:
    gold, predicted, lengths = sides
    metrics, rows = entity_scores(gold, predicted, lengths)
    counted, counted_rows = count_entities(gold, predicted)
    assert metrics == pytest.approx(counted)
    assert [row[0] for row in rows] == [row[0] for row in counted_rows]
    for row, other in zip(rows, counted_rows, strict=True):
        assert row[1:] == pytest.approx(other[1:])


def test_entity_scores_by_hand() -> None:
    gold = [[(0, 2, "x"), (3, 4, "y")], [(0, 1, "x")]]
    predicted = [[(0, 2, "x"), (2, 4, "y")], [(0, 1, "y")]]
    metrics, rows = entity_scores(gold, predicted, [4, 1])
    assert metrics == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3})
    assert [row[0] for row in rows] == ["x", "y"]
    assert rows[0][1:] == pytest.approx((1.0, 0.5, 2 / 3, 2))
    assert rows[1][1:] == (0, 0, 0, 1)
    assert entity_scores([[]], [[]], [3])[0] == {"f1": 0, "precision": 0, "recall": 0}


def test_an_entity_that_is_not_there() -> None:
    metrics, rows = entity_scores([[(0, 1, "x")]], [[(0, 1, "x"), (1, 2, "x")]], [2])
    assert metrics == pytest.approx({"f1": 2 / 3, "precision": 1 / 2, "recall": 1})
    assert rows == [("x", 0.5, 1.0, pytest.approx(2 / 3), 1)]
