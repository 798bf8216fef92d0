"""Units to tokens and back: alignment, windows, decoding, predictions and scores."""

from __future__ import annotations

import dataclasses
import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks import tag_schemes
from bertsmith.tasks.tag import published_facts
from bertsmith.tasks.tag_files import TaggedRows, Unit, read_tagged, rows_from_texts
from bertsmith.tasks.tag_schemes import SpanTuple, from_spans, to_spans
from bertsmith.tasks.tagging import (
    NO_TARGET,
    TagExamples,
    cut_windows,
    decode,
    encode,
    find_facts,
    gold_numbers,
    predict,
    score,
    unit_tokens,
)
from bertsmith.tasks.task import Facts, Outputs
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

PIECES = (
    *SPECIAL_TOKENS,
    *"ab가나각.'",
    *(f"##{c}" for c in "ab가나"),
    "ab",
    "가나",
    "##나가",
    "##ab",
    "don",
    "t",
    "ca",
)
TOKENIZER = Tokenizer.from_tokens(PIECES, lowercase=True)
JAMO_PIECES = (*SPECIAL_TOKENS, *"a.'", *(f"{sign}{c}" for sign in ("", "##") for c in "b\u1100\u1161\u1102\u11a8"))
KINDS = ("x", "y-z")

texts = st.text("ab가나각é\u0301\u1100\u1161\u11a8 .'\u200b\x07Q🎉", min_size=1, max_size=24)


def make_rows(sentences: list[tuple[str, list[tuple[int, int]], list[str]]], unit: Unit = "character") -> TaggedRows:
    lines = [[7 * n + k for k in range(len(tags))] for n, (_, _, tags) in enumerate(sentences, start=1)]
    return TaggedRows(
        texts=[text for text, _, _ in sentences],
        units=[units for _, units, _ in sentences],
        tags=[tags for _, _, tags in sentences],
        unit_lines=lines,
        lines=[7 * n for n in range(1, len(sentences) + 1)],
        source=Path("made-up.tsv"),
        unit=unit,
        format="characters",
    )


def characters(text: str) -> list[tuple[int, int]]:
    return [(n, n + 1) for n in range(len(text))]


def entity_facts(scheme: str = "BIO", max_length: int = 9, stride: int = 2) -> Facts:
    labels = tag_schemes.bio_labels(KINDS)
    lengths = {"max_length": max_length, "stride": stride}
    return {"labels": labels, "scheme": scheme, "unit": "character", "commonest": "O", **lengths}


def gold_outputs(examples: TagExamples, labels: int) -> Outputs:
    """Logits of a model that has learned every target, and knows nothing elsewhere."""
    assert examples.targets is not None
    logits = np.full((len(examples.targets), labels), -1.0, dtype=np.float32)
    logits[:, labels - 1] = 1.0
    known = np.flatnonzero(examples.targets != NO_TARGET)
    logits[known, labels - 1] = -1.0
    logits[known, examples.targets[known]] = 5.0
    return np.split(logits, examples.starts[1:-1])


@st.composite
def sentences(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]], list[str]]:
    text = draw(texts)
    spans: list[SpanTuple] = []
    at = 0
    while at < len(text) and draw(st.booleans()):
        first = draw(st.integers(at, len(text) - 1))
        at = draw(st.integers(first + 1, len(text)))
        spans.append((first, at, draw(st.sampled_from(KINDS))))
    return text, characters(text), from_spans(spans, len(text), "BIO")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    """Ours, and one with BERT's own normalisation: it takes syllables apart, so that one has several tokens."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(JAMO_PIECES), encoding="utf-8")
    return [TOKENIZER, Tokenizer.from_vocabulary(path)]


# Units and tokens


@settings(deadline=None)
@given(texts, st.booleans(), st.integers(0, 1))
def test_every_character_that_a_token_covers_has_that_token(
    tokenizers: list[Tokenizer], text: str, decompose: bool, which: int
) -> None:
    text = unicodedata.normalize("NFD", text) if decompose else text
    spans = [span for span in tokenizers[which].encode(text).char_spans if span is not None]
    found = unit_tokens(np.array(characters(text)), np.array(spans, dtype=np.int64).reshape(-1, 2)).tolist()
    for place, token in enumerate(found):
        covering = [n for n, (start, end) in enumerate(spans) if start <= place < end]
        assert (token in covering) if covering else token == -1


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=9), st.data())
def test_words_of_any_length_get_their_own_token_where_there_is_one(sizes: list[int], data: st.DataObject) -> None:
    ends = np.cumsum(sizes)
    units = np.stack([ends - sizes, ends], 1)
    cuts = sorted({0, *data.draw(st.sets(st.integers(1, int(ends[-1])), max_size=9)), int(ends[-1])})
    spans = np.array(list(itertools.pairwise(cuts)))
    for (start, end), token in zip(units.tolist(), unit_tokens(units, spans).tolist(), strict=True):
        beginning = [n for n, (a, _) in enumerate(spans.tolist()) if start <= a < end]
        overlapping = [n for n, (a, b) in enumerate(spans.tolist()) if a < end and b > start]
        assert token == (beginning or overlapping)[0]


def test_tokens_by_hand() -> None:
    # "don't" as do + n't: n't begins inside the token "don", but the quote is a token of its own.
    units = np.array([[0, 2], [2, 5]])
    assert unit_tokens(units, np.array([[0, 3], [3, 4], [4, 5]])).tolist() == [0, 1]
    assert unit_tokens(units, np.array([[0, 5]])).tolist() == [0, 0]
    assert unit_tokens(units, np.array([[0, 1]])).tolist() == [0, -1]
    assert unit_tokens(units, np.zeros((0, 2), dtype=np.int64)).tolist() == [-1, -1]
    # Two tokens of one character: the first speaks for it.
    assert unit_tokens(np.array([[0, 1], [1, 2]]), np.array([[0, 1], [0, 1], [1, 2]])).tolist() == [0, 2]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_syllable_of_several_tokens(tokenizers: list[Tokenizer], form: str) -> None:
    first, rest = (unicodedata.normalize(form, part) for part in ("각", "가"))
    tags = ["B-x", *["I-x"] * (len(first) - 1), *["O"] * len(rest)]
    rows = make_rows([(first + rest, characters(first + rest), tags)])
    examples = encode(rows, entity_facts(), tokenizers[1])
    assert len(examples.token_ids[0]) == 2 + 5
    assert examples.boundaries_inside == 0
    (prediction,) = predict(gold_outputs(examples, 5), examples, rows, entity_facts())
    assert [(s.start, s.end, s.label) for s in prediction.spans] == [(0, len(first), "x")]


# Windows


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=80), st.integers(1, 17), st.data())
def test_windows(flags: list[bool], room: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, room - 1))
    may_begin = np.array([True, *flags])
    windows = cut_windows(may_begin, room, stride).tolist()
    assert windows[0][0] == 0
    assert windows[-1][1] == len(may_begin)
    assert all(0 < end - start <= room for start, end in windows)
    for (start, end), (next_start, next_end) in itertools.pairwise(windows):
        assert start < next_start <= end < next_end
        assert end - next_start >= stride or next_start == start + 1
        if may_begin[max(end, start + room // 2 + 1) : start + room + 1].any():
            assert may_begin[end]
        latest = max(end - stride, start + 1)
        if may_begin[max(start, end - stride - (room - stride) // 2) + 1 : latest + 1].any():
            assert may_begin[next_start]


def test_windows_of_regular_words() -> None:
    assert cut_windows(np.ones(5, dtype=bool), 5, 2).tolist() == [[0, 5]]
    assert cut_windows(np.ones(11, dtype=bool), 5, 2).tolist() == [[0, 5], [3, 8], [6, 11]]
    assert cut_windows(np.arange(11) % 2 == 0, 5, 0).tolist() == [[0, 4], [4, 8], [8, 11]]
    # A word longer than the window cannot stay whole.
    assert cut_windows(np.arange(11) == 0, 5, 1).tolist() == [[0, 5], [4, 9], [8, 11]]
    assert cut_windows(np.zeros(0, dtype=bool), 5, 1).tolist() == [[0, 0]]


@settings(deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=3), st.integers(4, 13), st.data())
def test_every_unit_is_in_one_window_at_its_token(
    given_rows: list[tuple[str, list[tuple[int, int]], list[str]]], max_length: int, data: st.DataObject
) -> None:
    rows = make_rows(given_rows)
    facts = entity_facts(max_length=max_length, stride=data.draw(st.integers(0, max_length - 3)))
    examples = encode(rows, facts, TOKENIZER)
    assert max(examples.lengths) <= max_length
    everything = np.concatenate([np.array(ids) for ids in examples.token_ids])
    assert len(examples.places) == len(rows)
    for row, (text, places) in enumerate(zip(rows.texts, examples.places, strict=True)):
        encoding = TOKENIZER.encode(text)
        for place, (start, end) in zip(places.tolist(), rows.units[row], strict=True):
            tokens = {
                token
                for token, span in zip(encoding.ids, encoding.char_spans, strict=True)
                if span is not None and span[0] < end and span[1] > start
            }
            assert (place < 0) == (not tokens)
            if place >= 0:
                window = int(np.searchsorted(examples.starts, place, side="right")) - 1
                assert examples.rows[window] == row
                assert everything[place] in tokens
    assert examples.targets is not None
    covered = np.concatenate(examples.places)
    assert set(np.flatnonzero(examples.targets != NO_TARGET)) == set(covered[covered >= 0])


def test_the_window_with_most_context_is_taken() -> None:
    text = "a b a b a b a b a b"
    rows = make_rows([(text, [(2 * n, 2 * n + 1) for n in range(10)], list("NVNVNVNVNV"))], "word")
    facts = find_facts(rows, rows, max_length=8, stride=2)
    examples = encode(rows, facts, TOKENIZER)
    assert examples.lengths == [8, 8]  # tokens 0-5 and 4-9
    assert examples.rows.tolist() == [0, 0]
    # Token 4 has one token after it in the first window and none before it in the second, token 5 the other way round.
    assert examples.places[0].tolist() == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    batch = examples.batch(np.array([1, 0]))
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [-100, -100, 1, 0, 1, 0, 1, -100, -100, 0, 1, 0, 1, 0, -100, -100]
    assert batch.token_ids[0] == TOKENIZER.cls_id
    assert batch.token_ids[7] == TOKENIZER.sep_id
    assert examples.segment_ids == [[0] * 8, [0] * 8]


def test_of_equal_windows_the_first_is_taken() -> None:
    rows = make_rows([("a " * 9, [(2 * n, 2 * n + 1) for n in range(9)], list("NVNVNVNVN"))], "word")
    examples = encode(rows, find_facts(rows, rows, max_length=8, stride=3), TOKENIZER)
    assert examples.lengths == [8, 8]  # tokens 0-5 and 3-8; token 4 has one on its poorer side in both
    assert examples.places[0].tolist() == [1, 2, 3, 4, 5, 11, 12, 13, 14]


def test_only_the_first_token_of_a_word_has_a_target() -> None:
    rows = make_rows([("abb 가나", [(0, 3), (4, 6)], ["N", "V"])], "word")
    examples = encode(rows, find_facts(rows, rows, max_length=9, stride=1), TOKENIZER)
    assert [TOKENIZER.tokens[n] for n in examples.token_ids[0]] == ["[CLS]", "ab", "##b", "가나", "[SEP]"]
    assert examples.targets is not None
    assert examples.targets.tolist() == [-100, 0, -100, 1, -100]
    assert (
        encode(dataclasses.replace(rows, tags=[]), find_facts(rows, rows, max_length=9, stride=1), TOKENIZER)
        .batch([0])
        .labels
        is None
    )


# Decoding


@settings(deadline=None)
@given(
    st.lists(sentences(), min_size=1, max_size=3),
    st.integers(4, 13),
    st.sampled_from(["BIO", "IOB1", "BMES"]),
    st.integers(0, 1),
)
def test_gold_logits_give_the_gold_tags_back(
    tokenizers: list[Tokenizer],
    given_rows: list[tuple[str, list[tuple[int, int]], list[str]]],
    max_length: int,
    scheme: tag_schemes.Scheme,
    which: int,
) -> None:
    rows = make_rows(given_rows)
    facts = entity_facts(scheme, max_length, stride=1)
    examples = encode(rows, facts, tokenizers[which])
    found = predict(gold_outputs(examples, len(facts["labels"])), examples, rows, facts)
    assert [prediction.text for prediction in found] == rows.texts
    for prediction in found:
        assert list(prediction.tags) == tag_schemes.convert(prediction.tags, scheme, scheme)
    if examples.boundaries_inside == 0:
        expected = [tag_schemes.convert(tags, "BIO", scheme) for tags in rows.tags]
        assert [list(prediction.tags) for prediction in found] == expected
        for prediction, tags in zip(found, rows.tags, strict=True):
            spans = [(span.start, span.end, span.label) for span in prediction.spans]
            assert spans == to_spans(tags, "BIO")


def test_a_token_of_several_characters() -> None:
    rows = make_rows([("가나 가나", characters("가나 가나"), ["B-x", "I-x", "O", "B-x", "O"])])
    facts = entity_facts()
    examples = encode(rows, facts, TOKENIZER)
    assert (examples.boundaries, examples.boundaries_inside) == (4, 1)
    assert examples.boundaries_inside_token == 0.25
    (prediction,) = predict(gold_outputs(examples, 5), examples, rows, facts)
    assert prediction.tags == ("B-x", "I-x", "O", "B-x", "I-x")


def test_an_unknown_word_loses_no_character() -> None:
    rows = make_rows([("QQQ a", characters("QQQ a"), ["B-x", "I-x", "I-x", "O", "O"])])
    examples = encode(rows, entity_facts(), TOKENIZER)
    assert examples.token_ids[0][1] == TOKENIZER.unk_id
    (prediction,) = predict(gold_outputs(examples, 5), examples, rows, entity_facts())
    assert [(s.start, s.end, s.label) for s in prediction.spans] == [(0, 3, "x")]


def test_spaces_and_dropped_characters_inside_and_outside() -> None:
    text = "a b \x07a b"
    tags = ["B-x", "I-x", "I-x", "O", "O", "B-x", "O", "B-x"]
    rows = make_rows([(text, characters(text), tags)])
    examples = encode(rows, entity_facts(max_length=6, stride=1), TOKENIZER)
    assert examples.boundaries_inside == 0
    (prediction,) = predict(gold_outputs(examples, 5), examples, rows, entity_facts())
    assert list(prediction.tags) == tags
    # Without a token at its end, an entity loses it; that is counted.
    rows = make_rows([(text, characters(text), [*tags[:3], "I-x", *tags[4:]])])
    assert encode(rows, entity_facts(), TOKENIZER).boundaries_inside == 1
    rows = make_rows([(" a ", characters(" a "), ["B-x", "I-x", "I-x"])])
    assert encode(rows, entity_facts(), TOKENIZER).boundaries_inside == 2


def test_scores_of_entities_and_repair() -> None:
    rows = make_rows([("a ab", characters("a ab"), ["O"] * 4)])
    facts = entity_facts()
    examples = encode(rows, facts, TOKENIZER)
    logits = np.zeros((4, 5), dtype=np.float32)
    logits[1, 2] = np.log(6)  # I-x begins an entity: 6 of 10
    logits[2, 2] = np.log(4)  # and goes on over the space to the token "ab": 4 of 8
    (prediction,) = predict([logits], examples, rows, facts)
    assert prediction.tags == ("B-x", "I-x", "I-x", "I-x")
    (span,) = prediction.spans
    assert (span.start, span.end, span.label) == (0, 4, "x")
    assert span.score == pytest.approx((0.6 + 0.5 + 0.5) / 3)
    assert json.loads(json.dumps(prediction.to_json())) == {
        "text": "a ab",
        "spans": [{"start": 0, "end": 4, "label": "x", "score": span.score, "text": "a ab"}],
        "truncated": 0,
    }


def test_predictions_can_be_read_as_tags(tmp_path: Path) -> None:
    rows = make_rows([("가나 a", characters("가나 a"), ["B-x", "I-x", "O", "B-y-z"])])
    examples = encode(rows, entity_facts(), TOKENIZER)
    (prediction,) = predict(gold_outputs(examples, 5), examples, rows, entity_facts())
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(prediction.to_json()), encoding="utf-8")
    again = read_tagged(path)
    assert (again.texts, again.units, again.tags) == (rows.texts, rows.units, rows.tags)


def test_parts_of_speech_get_a_span_each() -> None:
    text = "don't \u200b가"
    rows = make_rows([(text, [(0, 2), (2, 5), (6, 7), (7, 8)], ["AUX", "PART", "X", "X"])], "word")
    facts = find_facts(rows, rows, max_length=9, stride=1)
    examples = encode(rows, facts, TOKENIZER)
    (prediction,) = predict(gold_outputs(examples, 3), examples, rows, facts)
    assert prediction.tags == ("AUX", "PART", "X", "X")
    assert [(s.start, s.end, s.label) for s in prediction.spans] == [
        (0, 2, "AUX"),
        (2, 5, "PART"),
        (6, 7, "X"),
        (7, 8, "X"),
    ]
    assert prediction.spans[0].score > 0.9
    assert prediction.spans[2].score == 0.0


@pytest.mark.parametrize("unit", ["word", "character"])
def test_raw_texts(unit: Unit) -> None:
    rows = rows_from_texts(["가나 a.", "", "\x07", "ab " * 23], unit)
    facts = entity_facts()
    examples = encode(rows, facts, TOKENIZER)
    assert examples.targets is None
    assert len(examples) > 4
    outputs = [np.eye(5, dtype=np.float32)[np.full(length, 1)] for length in examples.lengths]
    first, empty, dropped, long = predict(outputs, examples, rows, facts)
    assert [first.text[s.start : s.end] for s in first.spans] == ["가나", "a", "."]
    assert empty.spans == dropped.spans == ()
    assert len(long.spans) == 23
    assert predict([], encode(rows_from_texts([], unit), facts, TOKENIZER), rows_from_texts([], unit), facts) == []


def test_a_very_long_text() -> None:
    text = "ab 가나가. " * 12_500
    rows = rows_from_texts([text], "character")
    facts = entity_facts(max_length=128, stride=32)
    examples = encode(rows, facts, TOKENIZER)
    outputs = [np.zeros((length, 5), dtype=np.float32) for length in examples.lengths]
    assert len(text) == 100_000
    assert max(examples.lengths) <= 128
    numbers, _ = decode(outputs, examples, facts)
    assert len(numbers[0]) == len(text)
    assert len(set(examples.places[0][examples.places[0] >= 0].tolist())) == 4 * 12_500


# Facts


def test_facts() -> None:
    rows = make_rows(
        [("a b", [(0, 1), (2, 3)], ["S-y", "O"]), ("b a ab", [(0, 1), (2, 3), (4, 6)], ["B-x", "E-x", "O"])], "word"
    )
    facts = find_facts(rows, rows, max_length=128, stride=32, columns={"column": "2"})
    assert facts["labels"] == ["O", "B-x", "I-x", "B-y", "I-y"]
    assert (facts["scheme"], facts["unit"], facts["commonest"]) == ("BIOES", "word", "O")
    assert json.loads(json.dumps(facts)) == facts
    assert [n.tolist() for n in gold_numbers(rows, facts)] == [[3, 0], [1, 2, 0]]
    # A file that writes the same types in another scheme is understood.
    other = make_rows([("a b", [(0, 1), (2, 3)], ["B-x", "I-x"]), ("a", [(0, 1)], ["O"])], "word")
    assert [n.tolist() for n in gold_numbers(other, facts)] == [[1, 2], [0]]


def one(tags: list[str], unit: Unit = "word") -> TaggedRows:
    return make_rows([("a b", [(0, 1), (2, 3)], tags)], unit)


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        (one(["B-x", "O"]), one(["O", "B-q"]), r"made-up\.tsv:8: tag 'B-q' is not among those .* rows: x$"),
        (one(["N", "V"]), one(["V", "Z"]), r"made-up\.tsv:8: tag 'Z' is not among those .* rows: N, V$"),
        (one(["B-x", "O"]), one(["O", "NOUN"]), "tag 'NOUN' is not among"),
        (one(["N", "V"]), one(["O", "V"]), "tag 'O' is not among"),
        (one(["N", "N"]), one(["N", "N"]), "every word has the tag 'N'; expected at least two"),
        (one(["B-x", "O"]), one(["B-x", "O"], "character"), "a tag for every character, but .* every word"),
        (one(["Q-x", "O"]), one(["Q-x", "O"]), r"made-up\.tsv: the tags have the prefixes Q"),
    ],
)
def test_files_that_do_not_go_together(train: TaggedRows, dev: TaggedRows, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_facts(train, dev, max_length=128, stride=32)


def test_a_later_file_is_tagged_in_the_units_of_training() -> None:
    rows = one(["B-x", "O"])
    facts = find_facts(rows, rows, max_length=9, stride=1)
    examples = encode(rows, facts, TOKENIZER)
    later = one(["B-x", "O"], "character")
    message = r"made-up\.tsv: has a tag for every character, but the training rows for every word"
    with pytest.raises(InputError, match=message):
        encode(later, facts, TOKENIZER)
    with pytest.raises(InputError, match=message):
        score(gold_outputs(examples, 3), examples, later, facts)
    # Without tags there is nothing to compare, and a published model does not say what its units were.
    assert encode(dataclasses.replace(later, tags=[]), facts, TOKENIZER).token_ids == examples.token_ids
    assert len(encode(later, published_facts(["O", "B-x", "I-x"], 9), TOKENIZER)) == 1


@pytest.mark.parametrize("stride", [-1, 6, 99])
def test_an_overlap_that_leaves_no_room(stride: int) -> None:
    with pytest.raises(InputError, match="does not fit a window of 6"):
        find_facts(one(["N", "V"]), one(["N", "V"]), max_length=8, stride=stride)


# Scores


def test_scores_of_a_sentence_with_errors() -> None:
    text = "a b a b"
    rows = make_rows([(text, characters(text), ["B-x", "O", "O", "O", "B-x", "I-x", "I-x"])] * 2)
    facts = entity_facts(max_length=9)
    examples = encode(rows, facts, TOKENIZER)
    right = gold_outputs(examples, 5)
    perfect = score(right, examples, rows, facts)
    assert perfect.metrics == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    assert perfect.mistakes == ()
    wrong = [right[0], right[1].copy()]
    wrong[1][2] = [0, 9, 0, 0, 0]  # the first b of the second sentence: B-x
    wrong[1][4] = [9, 0, 0, 0, 0]  # and its last: O, and so the space before it
    scores = score(wrong, examples, rows, facts)
    assert scores.metrics == pytest.approx({"f1": 6 / 9, "precision": 3 / 5, "recall": 3 / 4, "accuracy": 11 / 14})
    assert scores.tables[0].rows == [("x", pytest.approx(0.6), pytest.approx(0.75), pytest.approx(6 / 9), 4)]
    assert scores.tables[1].rows == [("this model", pytest.approx(11 / 14)), ("always 'O'", pytest.approx(6 / 14))]
    assert not scores.collapsed
    (mistake,) = scores.mistakes
    assert (mistake.gold, mistake.predicted, mistake.line) == ("a (x), a b (x)", "a (x), b (x), a (x)", 14)
    assert mistake.spans == ((0, 1, "both"), (2, 3, "predicted"), (4, 5, "predicted"), (4, 7, "gold"))
    assert mistake.confidence == pytest.approx(np.exp(9) / (np.exp(9) + 4))
    nothing = score([np.eye(5, dtype=np.float32)[[0] * n] for n in examples.lengths], examples, rows, facts)
    assert nothing.collapsed
    assert nothing.metrics["f1"] == 0


def test_scores_of_parts_of_speech() -> None:
    rows = make_rows([("a b ab", [(0, 1), (2, 3), (4, 6)], ["N", "V", "N"]), ("b", [(0, 1)], ["ADJ"])], "word")
    facts = find_facts(rows, rows, max_length=9, stride=1)
    examples = encode(rows, facts, TOKENIZER)
    outputs = gold_outputs(examples, 3)
    outputs[0][1] = [0, 0, 9]
    dev = dataclasses.replace(rows, texts=rows.texts[:1], units=rows.units[:1], tags=rows.tags[:1])
    scores = score(outputs[:1], encode(dev, facts, TOKENIZER), dev, facts)
    # ADJ does not occur here, so it does not count.
    assert scores.metrics == pytest.approx({"accuracy": 2 / 3, "macro_f1": 2 / 3})
    assert scores.labels == ("N", "V")
    assert scores.confusion == [[1, 1], [0, 1]]
    (mistake,) = scores.mistakes
    assert (mistake.gold, mistake.predicted, mistake.spans) == ("a (N)", "a (V)", ((0, 1, "both"),))


def test_of_a_long_text_the_error_is_shown() -> None:
    text = "a " * 700
    rows = make_rows([(text, characters(text), ["O"] * 1000 + ["B-x"] + ["O"] * 399)])
    facts = entity_facts(max_length=128, stride=8)
    examples = encode(rows, facts, TOKENIZER)
    outputs = [np.eye(5, dtype=np.float32)[[0] * n] for n in examples.lengths]
    (mistake,) = score(outputs, examples, rows, facts).mistakes
    assert len(mistake.text) == 400
    assert (mistake.gold, mistake.predicted, mistake.spans) == ("a (x)", "(none)", ((100, 101, "gold"),))
