"""One label a row: names, weights, scores by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.errors import InputError
from bertsmith.task_config import ClassifySettings
from bertsmith.tasks.classify import TASK, label_names, predict, score
from bertsmith.tasks.scores import label_scores
from bertsmith.tasks.texts import TextRows
from bertsmith.text.store import TokenStore


def rows(*pairs: tuple[str, str], source: str = "a.csv") -> TextRows:
    return TextRows([t for t, _ in pairs], [n for _, n in pairs], list(range(2, len(pairs) + 2)), Path(source))


def settings(**changes: object) -> ClassifySettings:
    return ClassifySettings.parse({"model": "m", "train": "a.csv", "dev": "b.csv", "output": "o"} | changes)


def test_labels() -> None:
    def named(source: str, *labels: str) -> TextRows:
        return rows(*(("t", label) for label in labels), source=source)

    assert label_names(named("a.csv", "10", "9", "-1"), named("b.csv", "9")) == ("-1", "9", "10")
    assert label_names(named("a.csv", "10.5", "9.5", "-1"), named("b.csv", "9.5")) == ("-1", "9.5", "10.5")
    assert label_names(named("a.csv", "--1", "²", "1"), named("b.csv", "1")) == ("--1", "1", "²")
    assert label_names(named("a.csv", "나쁨", "good"), named("b.csv", "good")) == ("good", "나쁨")
    with pytest.raises(InputError, match=r"b\.csv:3: label 'maybe' is not among .* no, yes"):
        label_names(named("a.csv", "yes", "no"), named("b.csv", "no", "maybe"))
    with pytest.raises(InputError, match="every row has the label 'yes'"):
        label_names(named("a.csv", "yes", "yes"), named("b.csv", "yes"))


def test_swapped_columns_are_noticed() -> None:
    swapped = rows(*((("good", "bad")[n % 2], f"a text of its own {n}") for n in range(24)))
    with pytest.raises(InputError, match="are the text and label columns swapped"):
        TASK.facts(swapped, swapped, settings())


def test_balanced_weights_make_labels_equal_and_keep_the_size_of_the_loss(store: TokenStore) -> None:
    train = rows(*[("the cat", "often")] * 6, *[("a dog", "rare")] * 2)
    facts = TASK.facts(train, train, settings(class_weights="balanced"))
    assert facts["class_weights"] == [pytest.approx(8 / 12), pytest.approx(8 / 4)]
    assert "class_weights" not in TASK.facts(train, train, settings())
    batch = TASK.encode(train, facts, store.tokenizer).batch(range(8))
    logits = torch.zeros(8, 2)
    weighted = TASK.sums(lambda b: logits, batch, facts)["loss"]
    assert float(weighted) == pytest.approx(8 * np.log(2), rel=1e-5)


def test_pairs_are_encoded_with_segments(store: TokenStore) -> None:
    pairs = TextRows([("the cat", "a dog"), ("the river", "the cat")], ["a", "b"], [2, 3], Path("a.csv"))
    examples = TASK.encode(pairs, {"labels": ["a", "b"], "max_length": 30}, store.tokenizer)
    batch = examples.batch([1, 0])
    assert batch.labels.tolist() == [1, 0]
    starts = batch.sequence_starts.tolist()
    assert batch.segment_ids[starts[0]].item() == 0
    assert batch.segment_ids[starts[1] - 1].item() == 1
    assert (batch.token_ids == store.tokenizer.sep_id).sum() == 4


def test_encoding_counts_what_is_cut(store: TokenStore) -> None:
    found = TASK.encode(
        rows(("the cat sees the river", "b"), ("the cat", "a")),
        {"labels": ["a", "b"], "max_length": 5},
        store.tokenizer,
    )
    assert found.truncated == 1
    assert found.lengths[0] == 5
    batch = found.batch(np.array([1, 0]))
    assert batch.labels.tolist() == [0, 1]
    assert batch.token_ids[0] == store.tokenizer.cls_id


def test_scores_by_hand() -> None:
    scores = label_scores(np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1]), ("a", "b", "c"))
    assert scores.metrics["accuracy"] == pytest.approx(3 / 5)
    assert scores.confusion == [[2, 1, 0], [0, 1, 0], [0, 1, 0]]
    a, b, c = scores.tables[0].rows
    assert a == ("a", 1.0, pytest.approx(2 / 3), pytest.approx(0.8), 3)
    assert b[1:3] == (pytest.approx(1 / 3), 1.0)
    assert c[3] == 0.0
    assert scores.metrics["macro_f1"] == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert not scores.collapsed
    assert label_scores(np.array([0, 1]), np.array([1, 1]), ("a", "b")).collapsed
    assert "0.800" in scores.text()


def test_the_most_confident_mistakes_come_first(store: TokenStore) -> None:
    labelled = rows(("the cat", "a"), ("a dog", "a"), ("the river", "b"))
    facts = {"labels": ["a", "b"], "commonest": "a", "max_length": 20}
    examples = TASK.encode(labelled, facts, store.tokenizer)
    outputs = [np.array(v, dtype=np.float32) for v in ([0.0, 1.0], [0.0, 3.0], [0.0, 2.0])]
    scores = score(outputs, examples, labelled, facts)
    assert [m.text for m in scores.mistakes] == ["a dog", "the cat"]
    assert scores.mistakes[0].line == 3
    assert dict(scores.tables[1].rows) == {"this model": pytest.approx(1 / 3), "always 'a'": pytest.approx(2 / 3)}
    found = predict(outputs, examples, labelled, facts)
    assert [p.label for p in found] == ["b", "b", "b"]
    assert found[1].score == pytest.approx(1 / (1 + np.exp(-3)), rel=1e-5)
