"""Windows, and right answers among their tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks.qa_files import GoldAnswer, QuestionRows
from bertsmith.tasks.qa_windows import cut_windows, encode, max_context, token_span
from bertsmith.text.tokenizer import Tokenizer

LETTERS = "abcdehlorstuw나는서울시청"
TOKENIZER = Tokenizer.from_tokens(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ".", "who", "the", "##s", "는나", *LETTERS]
    + [f"##{c}" for c in LETTERS if c != "s"],
    lowercase=True,
)
FACTS = {"max_length": 13, "stride": 3, "max_query_length": 5}


def rows_of(*asked: tuple[str, str, tuple[tuple[str, int | None], ...]], labels: bool = True) -> QuestionRows:
    answers = [tuple(GoldAnswer(text, start) for text, start in golds) for _, _, golds in asked]
    questions, contexts = [q for q, _, _ in asked], [c for _, c, _ in asked]
    n = len(asked)
    ids = [f"q{k}" for k in range(n)]
    return QuestionRows(ids, questions, contexts, answers if labels else [], contexts, list(range(1, n + 1)), Path("-"))


def test_windows_by_hand() -> None:
    assert cut_windows(7, 7, 3) == ((0, 7),)
    assert cut_windows(8, 7, 3) == ((0, 7), (3, 5))
    assert cut_windows(13, 7, 3) == ((0, 7), (3, 7), (6, 7))
    assert cut_windows(5, 2, 99) == ((0, 2), (2, 2), (4, 1))
    assert cut_windows(0, 7, 3) == ((0, 0),)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 60))
@example(3, 1, 1)
def test_every_token_is_in_a_window(tokens: int, room: int, stride: int) -> None:
    windows = cut_windows(tokens, room, stride)
    held = np.concatenate([np.arange(first, first + count) for first, count in windows])
    assert set(held.tolist()) == set(range(tokens))
    assert all(count <= room for _, count in windows)
    assert all(b - a == min(stride, room) for (a, _), (b, _) in pairwise(windows))


def test_max_context_by_hand() -> None:
    # Token 3 has min(3, 1) in the first window, min(1, 3) in the second: equal, so the first has it.
    assert max_context([(0, 5), (2, 5)]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    # Token 3 is the edge of both; the longer window has it.
    assert max_context([(0, 4), (3, 5)]).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert max_context([(0, 0)]).tolist() == []


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 60))
def test_each_token_counts_in_the_one_window_with_most_context(tokens: int, room: int, stride: int) -> None:
    windows = cut_windows(tokens, room, stride)
    owner = max_context(windows)
    assert len(owner) == tokens
    for token in range(tokens):
        around = [
            min(token - first, first + count - 1 - token) + 0.01 * count if first <= token < first + count else -1
            for first, count in windows
        ]
        assert owner[token] == around.index(max(around))


def test_token_spans() -> None:
    spans = np.array([[0, 2], [2, 3], [4, 7], [7, 8], [7, 8]])
    assert token_span(spans, 0, 3) == (0, 1, True)
    assert token_span(spans, 2, 7) == (1, 2, True)
    assert token_span(spans, 4, 8) == (2, 4, True)
    assert token_span(spans, 1, 3) == (0, 1, False)
    assert token_span(spans, 4, 6) == (2, 2, False)
    assert token_span(spans, 3, 4) is None
    assert token_span(np.empty((0, 2), dtype=np.int64), 0, 1) is None


def test_a_window_by_hand() -> None:
    rows = rows_of(("Who?", "The west .", (("west", 4),)))
    examples = encode(rows, FACTS, TOKENIZER)
    assert [TOKENIZER.tokens[n] for n in examples.token_ids[0]] == [
        "[CLS]", "who", "?", "[SEP]", "the", "w", "##e", "##s", "##t", ".", "[SEP]",
    ]  # fmt: skip
    assert examples.segment_ids == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]
    assert examples.lengths == [11]
    assert examples.targets.tolist() == [[5, 8]]
    assert (len(examples), examples.truncated, examples.answerable, examples.inexpressible) == (1, 0, 1, 0)
    assert examples.warnings() == []


def test_windows_of_one_question() -> None:
    text = "the a b c d e h l o r s t u w"
    examples = encode(rows_of(("who?", text, (("l o", 16),))), FACTS, TOKENIZER)
    room = 13 - 3 - 2
    assert [(f, c) for f, c in zip(examples.firsts, examples.counts, strict=True)] == [(0, room), (3, room), (6, room)]
    assert examples.lengths == [13, 13, 13]
    # Tokens 7 and 8 are in the second and the third window; a window without them points at [CLS].
    assert examples.targets.tolist() == [[0, 0], [4 + 4, 4 + 5], [4 + 1, 4 + 2]]
    batch = examples.batch(np.array([2, 0]))
    assert batch.labels.tolist() == [[5, 6], [0, 0]]
    assert batch.labels.dtype == batch.token_ids.dtype
    assert batch.token_ids.tolist() == examples.token_ids[2] + examples.token_ids[0]
    assert batch.segment_ids.tolist() == examples.segment_ids[2] + examples.segment_ids[0]
    assert batch.max_length == 13


def test_contexts_are_encoded_once_and_questions_cut() -> None:
    text = "the west. the east."
    rows = rows_of(("who?", text, (("west", 4),)), ("who who who who who who?", text, ()), ("who?", "the", ()))
    examples = encode(rows, FACTS, TOKENIZER)
    assert len(examples.contexts) == 2
    assert examples.context_of.tolist() == [0, 0, 1]
    assert examples.cut.tolist() == [0, 2, 0]
    assert examples.truncated == 1
    assert "1 of 3 questions are too long" in examples.warnings()[0]
    starts = examples.window_starts.tolist()
    assert [examples.rows[a:b].tolist() for a, b in pairwise(starts)] == [
        [n] * (b - a) for n, (a, b) in enumerate(pairwise(starts))
    ]
    assert examples.targets[starts[1] :].tolist() == [[0, 0]] * (len(examples) - starts[1])


def test_a_question_leaves_half_the_room() -> None:
    rows = rows_of(("who " * 30, "the west", ()))
    examples = encode(rows, {"max_length": 14, "max_query_length": 64}, TOKENIZER)
    assert len(examples.questions[0]) == 5
    assert max(examples.lengths) <= 14
    tiny = encode(rows, {"max_length": 5, "max_query_length": 64}, TOKENIZER)
    assert set(tiny.lengths) == {5}
    for wrong in ({"max_length": 4}, {"stride": 0}, {"max_query_length": 0}):
        with pytest.raises(InputError, match="expected at least 5, 1 and 1"):
            encode(rows, wrong, TOKENIZER)


def test_answers_that_tokens_cannot_express() -> None:
    rows = rows_of(
        ("who?", "the 는나 the", (("나", 5),)),
        ("who?", "the 는나 는나 the", (("나", 5), ("the", 10))),
        ("who?", "the 서울시청 the", ((" 서울", 3),)),
        ("who?", "the \u200b the", (("\u200b", 4),)),
        ("who?", "the the", ()),
    )
    examples = encode(rows, FACTS, TOKENIZER)
    assert examples.targets.tolist() == [[5, 5], [7, 7], [5, 6], [0, 0], [0, 0]]
    assert (examples.answerable, examples.inexpressible) == (4, 2)
    assert examples.inexpressible_shown == ("'나' in '는나'", "'\\u200b' has no token")
    assert "2 of 4 answers (50.0%)" in examples.warnings()[0]
    many = encode(rows_of(*[("who?", "는나", (("나", 1),))] * 7), FACTS, TOKENIZER)
    assert (many.inexpressible, len(many.inexpressible_shown)) == (7, 5)


def test_an_answer_that_was_not_found_is_not_trained_towards() -> None:
    rows = rows_of(("who?", "the west", (("the", 0), ("castle", None))), ("who?", "the west", (("castle", None),)))
    examples = encode(rows, FACTS, TOKENIZER)
    assert examples.targets.tolist() == [[4, 4], [0, 0]]
    assert examples.inexpressible == 0


def test_rows_without_labels_and_texts_without_tokens() -> None:
    rows = rows_of(("\u200b", "\u200b", ()), ("who?", "the", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    assert examples.targets is None
    assert examples.batch([0, 1]).labels is None
    assert examples.lengths[0] == 3
    assert examples.token_ids[0] == [TOKENIZER.cls_id, TOKENIZER.sep_id, TOKENIZER.sep_id]
    empty = encode(rows_of(labels=False), FACTS, TOKENIZER)
    assert (len(empty), empty.lengths) == (0, [])
