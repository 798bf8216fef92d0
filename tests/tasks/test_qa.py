"""From logits to answers, and their scores."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.task_config import QaSettings
from bertsmith.tasks import qa
from bertsmith.tasks.qa import best_spans, predict, score, tune_threshold
from bertsmith.tasks.qa_windows import QuestionExamples, encode, max_context, token_span
from bertsmith.tasks.task import Source
from tests.tasks.test_qa_windows import FACTS, LETTERS, TOKENIZER, rows_of

TEXT = "the a b c d e h l o r s t u w"


def outputs_of(examples: QuestionExamples, low: float = -9.0) -> list[np.ndarray]:
    return [np.full((length, 2), low, dtype=np.float32) for length in examples.lengths]


def pointing(examples: QuestionExamples) -> list[np.ndarray]:
    """Logits that point at the targets."""
    outputs = outputs_of(examples)
    for output, (first, last) in zip(outputs, examples.targets, strict=True):
        output[first, 0] = output[last, 1] = 5
    return outputs


@settings(deadline=None)
@given(
    st.integers(1, 17), st.integers(1, 20), st.integers(1, 9), st.sets(st.integers(0, 16)), st.integers(0, 2**32 - 1)
)
def test_best_spans_are_those_of_all_pairs(tokens: int, longest: int, count: int, shut: set[int], seed: int) -> None:
    start, end = np.random.default_rng(seed).normal(size=(2, tokens))
    start[[n for n in shut if n < tokens]] = -np.inf
    scores, firsts, lasts = best_spans(start, end, longest, count)
    pairs = [
        (start[a] + end[b], a, b)
        for a in range(tokens)
        for b in range(a, min(tokens, a + longest))
        if start[a] > -np.inf
    ]
    expected = sorted(pairs, reverse=True)[:count]
    assert sorted(zip(scores, firsts, lasts, strict=True), reverse=True) == expected


def test_an_answer_by_hand() -> None:
    rows = rows_of(("who?", "The  West .", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    output = outputs_of(examples)
    # [CLS] who ? [SEP] the w ##e ##s ##t . [SEP]: 'West' scores 7, 'The  West' 6.
    output[0][5, 0], output[0][4, 0], output[0][8, 1] = 4, 3, 3
    # What lies outside the context, or ends before it begins, is never an answer.
    output[0][1, 0] = output[0][2, 1] = output[0][10, 1] = output[0][0] = 50
    answer = predict(output, examples, rows, {"n_best": 2, **FACTS})[0]
    assert (answer.text, answer.start, answer.end, answer.impossible) == ("West", 5, 9, False)
    assert [(span.text, span.start, span.end) for span in answer.n_best] == [("West", 5, 9), ("The  West", 0, 9)]
    assert answer.score == pytest.approx(1 / (1 + np.exp(-1)))
    assert sum(span.score for span in answer.n_best) == pytest.approx(1)
    assert (answer.null_difference, answer.id) == (100 - 7, "q0")
    assert predict(output, examples, rows, {"max_answer_length": 4, **FACTS})[0].n_best[1].text != "The  West"


def test_no_answer() -> None:
    rows = rows_of(("who?", "the west .", ()))
    examples = encode(rows, FACTS, TOKENIZER)
    output = outputs_of(examples)
    output[0][5, 0], output[0][8, 1], output[0][0] = 4, 3, (6, 2)
    facts = FACTS | {"impossible": True, "n_best": 1}
    refused = predict(output, examples, rows, facts)[0]
    assert (refused.text, refused.start, refused.end, refused.impossible) == ("", 0, 0, True)
    assert refused.null_difference == 1
    assert [span.text for span in refused.n_best] == ["", "west"]
    assert refused.score == pytest.approx(1 / (1 + np.exp(-1)))
    given_ = predict(output, examples, rows, facts | {"threshold": 1.0})[0]
    assert (given_.text, given_.impossible) == ("west", False)
    assert given_.score == pytest.approx(1 - refused.score)
    assert predict(output, examples, rows, facts | {"threshold": 0.99})[0] == refused
    never = predict(output, examples, rows, FACTS | {"impossible": False, "threshold": -50.0})[0]
    assert (never.text, never.n_best[0].text) == ("west", "west")


def test_the_lowest_null_score_of_all_windows_counts() -> None:
    rows = rows_of(("who?", TEXT, ()))
    examples = encode(rows, FACTS, TOKENIZER)
    outputs = outputs_of(examples, 0)
    for output, null in zip(outputs, (4, 1, 7), strict=True):
        output[0] = null
    outputs[1][8] = 3
    answer = predict(outputs, examples, rows, FACTS | {"impossible": True})[0]
    assert answer.null_difference == 2 * 1 - 2 * 3


def test_a_token_counts_where_it_has_most_context() -> None:
    rows = rows_of(("who?", TEXT, ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    # Token 3 ("c") is in the middle of the first window and the first of the second.
    outputs = outputs_of(examples)
    outputs[1][4] = 9
    assert predict(outputs, examples, rows, FACTS)[0].text != "c"
    outputs[0][4 + 3] = 8
    answer = predict(outputs, examples, rows, FACTS)[0]
    assert (answer.text, TEXT[answer.start : answer.end]) == ("c", "c")


def test_the_list_of_answers_shows_each_text_once() -> None:
    rows = rows_of(("who?", "a b a b", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    outputs = outputs_of(examples, 0)
    outputs[0][4 + 2] = 1
    answer = predict(outputs, examples, rows, FACTS | {"max_answer_length": 1})[0]
    assert [(span.text, span.start) for span in answer.n_best] == [("a", 4), ("b", 2)]


@settings(deadline=None, max_examples=60)
@given(
    st.text(alphabet=LETTERS + " .?\u0301Éß\u1112\u1161ㅋ", min_size=1, max_size=60).filter(str.strip),
    st.integers(7, 20),
    st.integers(1, 12),
    st.data(),
)
def test_a_right_answer_is_found_again(text: str, max_length: int, stride: int, data: st.DataObject) -> None:
    facts = {"max_length": max_length, "stride": stride, "max_query_length": 2, "max_answer_length": 99, "n_best": 3}
    plain = encode(rows_of(("who?", text, ())), facts, TOKENIZER)
    spans = plain.char_spans[0]
    if len(spans) == 0:
        return
    pieces = list(zip(plain.firsts.tolist(), plain.counts.tolist(), strict=True))
    first = data.draw(st.integers(0, len(spans) - 1))
    # An answer that leaves the window in which its beginning counts cannot be found.
    window = int(max_context(pieces)[first])
    last = data.draw(st.integers(first, sum(pieces[window]) - 1))
    start, end = int(spans[first, 0]), int(spans[last, 1])
    if text[start:end] != text[start:end].strip() or start == end:
        return
    rows = rows_of(("who?", text, ((text[start:end], start),)))
    examples = encode(rows, facts, TOKENIZER)
    assert examples.inexpressible == 0
    outputs = outputs_of(examples)
    found = token_span(spans, start, end)
    assert found is not None
    a, b, _ = found
    for number, (begin, count) in enumerate(pieces):
        if begin <= a and b < begin + count:
            assert examples.targets[number].tolist() == [4 + a - begin, 4 + b - begin]
            outputs[number][4 + a - begin, 0] = outputs[number][4 + b - begin, 1] = 5
        else:
            assert examples.targets[number].tolist() == [0, 0]
    answer = predict(outputs, examples, rows, facts)[0]
    # Several tokens may share a character, and its first token may count in another window then.
    if (a, b) == (first, last):
        assert (answer.start, answer.end, answer.text) == (start, end, text[start:end])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text(min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_answers_are_slices_of_the_context(texts: list[str], impossible: bool, seed: int) -> None:
    rows = rows_of(*[("who?", text, ()) for text in texts], labels=False)
    facts = FACTS | {"impossible": impossible}
    examples = encode(rows, facts, TOKENIZER)
    rng = np.random.default_rng(seed)
    outputs = [rng.normal(size=(length, 2)).astype(np.float32) for length in examples.lengths]
    outputs[0][:] = np.nan if seed % 3 == 0 else outputs[0]
    answers = predict(outputs, examples, rows, facts)
    assert [answer.context for answer in answers] == texts
    for answer in answers:
        assert answer.context[answer.start : answer.end] == answer.text
        assert answer.impossible == (answer.text == "")
        assert all(answer.context[span.start : span.end] == span.text for span in answer.n_best)
        assert len({span.text for span in answer.n_best}) == len(answer.n_best)
        shares = [span.score for span in answer.n_best]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1)
        assert json.loads(json.dumps(answer.to_json()))["text"] == answer.text


def test_plain_values() -> None:
    rows = rows_of(("who?", "the west", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    found = predict(outputs_of(examples), examples, rows, FACTS)[0].to_json()
    assert list(found) == [
        "id", "question", "context", "text", "start", "end", "score", "impossible", "truncated", "n_best",
    ]  # fmt: skip
    assert set(found["n_best"][0]) == {"text", "start", "end", "score"}
    unnamed = qa.rows_of([(7, ("who?", "the west"))], {})
    assert "id" not in predict(outputs_of(examples), examples, unnamed, FACTS)[0].to_json()


def test_what_is_not_a_number_is_never_an_answer() -> None:
    rows = rows_of(("who?", "the west", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    output = outputs_of(examples, 0)
    output[0][5, 0] = output[0][8, 1] = 3
    output[0][4] = output[0][7, 1] = np.nan
    answer = predict(output, examples, rows, FACTS | {"n_best": 1})[0]
    assert (answer.text, answer.score) == ("west", 1.0)


def test_a_context_without_tokens_has_no_answer() -> None:
    rows = rows_of(("who?", "\u200b", ()), labels=False)
    examples = encode(rows, FACTS, TOKENIZER)
    answer = predict(outputs_of(examples), examples, rows, FACTS)[0]
    assert (answer.text, answer.impossible, answer.score, answer.best_span) == ("", True, 1.0, None)


def dev() -> tuple[object, QuestionExamples]:
    rows = rows_of(
        ("who?", "the west", (("west", 4),)),
        ("who?", "the west", ()),
        ("who?", "the east sea", (("east", 4), ("east sea", 4))),
        ("who?", "the sea", ()),
    )
    return rows, encode(rows, FACTS, TOKENIZER)


def with_nulls(examples: QuestionExamples, nulls: tuple[float, ...]) -> list[np.ndarray]:
    """Logits of 2 for the whole context, and differences to "no answer" as wished."""
    outputs = outputs_of(examples)
    for output, null in zip(outputs, nulls, strict=True):
        output[4, 0] = output[-2, 1] = 2
        output[0] = (4 + null) / 2
    return outputs


def test_scores_by_hand() -> None:
    rows, examples = dev()
    # Answers: 'the west' (exact, without its article), 'the west' (wrong), 'the east sea' (exact), '' (right).
    outputs = with_nulls(examples, (-3, -2, -1, 5))
    scores = score(outputs, examples, rows, FACTS | {"impossible": True, "threshold": 0.0})
    assert scores.metrics == {
        "exact_match": 0.75,
        "f1": 0.75,
        "has_answer_exact_match": 1,
        "has_answer_f1": 1,
        "no_answer_exact_match": 0.5,
        "no_answer_f1": 0.5,
        "best_exact_match": 0.75,
        "best_f1": 0.75,
    }
    assert scores.tuned == {"threshold": -2.5}
    (mistake,) = scores.mistakes
    assert (mistake.text, mistake.gold, mistake.predicted, mistake.line) == (
        "who? ‖ the west",
        "(no answer)",
        "the west",
        2,
    )
    assert [(mistake.text[a:b], kind) for a, b, kind in mistake.spans] == [("the west", "predicted")]
    assert not scores.collapsed
    assert scores.tables[0].rows[1] == ("has answer", 1.0, 1.0, 2)


def test_the_threshold_is_tuned_where_none_is_known() -> None:
    rows, examples = dev()
    outputs = with_nulls(examples, (7, 8, 7.5, 9))
    facts = FACTS | {"impossible": True}
    at_nought = score(outputs, examples, rows, facts | {"threshold": 0.0})
    assert (at_nought.metrics["f1"], at_nought.collapsed) == (0.5, True)
    tuned = score(outputs, examples, rows, facts)
    assert tuned.metrics["f1"] == tuned.metrics["best_f1"] == 1
    assert tuned.tuned == {"threshold": 7.75}
    assert tuned.mistakes == ()
    predictions = predict(outputs, examples, rows, facts | {"threshold": -99.0})
    assert all(p.impossible for p in predictions)
    assert tune_threshold(predictions, rows, "en") == 7.75
    stored = score(outputs, examples, rows, facts | tuned.tuned)
    assert stored.metrics["f1"] == 1


def test_scores_without_impossible_questions() -> None:
    rows = rows_of(("who?", TEXT, (("h l", 14),)), ("who?", TEXT, (("w", 28),)))
    examples = encode(rows, FACTS, TOKENIZER)
    scores = score(pointing(examples), examples, rows, FACTS)
    assert (scores.metrics, scores.tuned, scores.mistakes) == ({"exact_match": 1, "f1": 1}, {}, ())
    same = score(outputs_of(examples, 0), examples, rows, FACTS)
    assert same.collapsed
    assert same.metrics["exact_match"] == 0
    assert [mistake.gold for mistake in same.mistakes] == ["h l", "w"]
    assert [m.text[a:b] for m in same.mistakes for a, b, kind in m.spans if kind == "gold"] == ["h l", "w"]


class Given(nn.Module):
    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, batch: object) -> torch.Tensor:
        return self.logits


def test_the_loss_is_that_of_each_window_alone() -> None:
    rows = rows_of(("who?", TEXT, (("h l", 14),)), ("who?", "the west", (("west", 4),)))
    examples = encode(rows, FACTS, TOKENIZER)
    batch = examples.batch([3, 1, 0])
    logits = torch.randn(batch.num_tokens, 2, generator=torch.Generator().manual_seed(5), requires_grad=True)
    loss = qa.loss_sums(Given(logits), batch, FACTS)["loss"]
    expected = torch.zeros(())
    for (a, b), (first, last) in zip(pairwise(batch.sequence_starts), batch.labels, strict=True):
        window = logits[a:b]
        expected = expected + (F.cross_entropy(window[:, 0], first) + F.cross_entropy(window[:, 1], last)) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert qa.loss_counts(batch) == {"loss": 3}
    cut = qa.cut_outputs(logits.bfloat16(), batch, FACTS)
    assert [part.shape for part in cut] == [(examples.lengths[n], 2) for n in (3, 1, 0)]
    assert cut[0].dtype == np.float32


def test_a_model_learns_where_answers_are() -> None:
    words = ("west", "hall", "wall", "court", "shed", "wood")
    rows = rows_of(
        *[("who?", f"{a} {b} the {c}", ((c, len(f"{a} {b} the ")),)) for a in words for b in words for c in words]
    )
    facts = FACTS | {"max_length": 29, "stride": 7}
    examples = encode(rows, facts, TOKENIZER)
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=20, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=40, max_position_embeddings=32, hidden_dropout_prob=0.0,
    )  # fmt: skip
    model = qa.make_model(config, facts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order = np.random.default_rng(0).permutation(len(examples))
    for step in range(40):
        batch = examples.batch(order[step * 24 % 192 :][:24])
        optimizer.zero_grad()
        (qa.loss_sums(model, batch, facts)["loss"] / qa.loss_counts(batch)["loss"]).backward()
        optimizer.step()
    batch = examples.batch(range(len(examples)))
    with torch.no_grad():
        outputs = qa.cut_outputs(model.eval()(batch), batch, facts)
    assert score(outputs, examples, rows, facts).metrics["f1"] > 0.9


def test_what_a_model_remembers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q,c,answer,start\n누구?,나는 서울,서울,3\n누구?,나는 서울,,\n", encoding="utf-8")
    columns = {"question": "q", "context": "c", "answer": "answer", "start": "start"}
    rows = qa.read(Source(path, columns))
    chosen = QaSettings(
        **columns,
        model=tmp_path,
        train=path,
        output=tmp_path,
        max_length=99,
        stride=31,
        max_query_length=11,
        max_answer_length=7,
        n_best=3,
        language="auto",
    )
    facts = qa.find_facts(rows, rows, chosen)
    assert facts == {
        "columns": columns, "max_length": 99, "stride": 31, "max_query_length": 11, "max_answer_length": 7,
        "n_best": 3, "language": "ko", "impossible": True,
    }  # fmt: skip
    assert json.loads(json.dumps(facts)) == facts
    possible = qa.read(Source(path, columns, limit=1))
    assert qa.find_facts(possible, possible, chosen)["impossible"] is False
    assert qa.find_facts(possible, rows, chosen)["impossible"] is True
    assert list(qa.inputs(Source(path, columns), facts))[1] == (3, ("누구?", "나는 서울"))
    assert qa.keys(rows) == [("누구?", "나는 서울")] * 2
    with pytest.raises(InputError, match="no question has an answer"):
        qa.find_facts(rows_of(("who?", "the", ())), rows, chosen)


def test_inputs_in_python_that_cannot_be_used() -> None:
    for wrong, message in [
        ("who?", r"input 3 is 'who\?'; expected a tuple \(question, context\)"),
        (("who?", 5), "expected a tuple"),
        (("", "the"), "the question of input 3 is empty"),
        (("who?", " "), "the context of input 3 is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            qa.rows_of([(1, ("who?", "the")), (3, wrong)], {})


def test_a_very_long_context() -> None:
    text = "the west. " * 10_000 + "서울 " + "the east. " * 100
    start = text.index("서울")
    rows = rows_of(("who?", text, (("서울", start),)))
    began = time.process_time()
    examples = encode(rows, {}, TOKENIZER)
    answer = predict(pointing(examples), examples, rows, {"impossible": True})[0]
    assert (answer.text, answer.start) == ("서울", start)
    assert len(examples) > 300
    assert time.process_time() - began < 20
