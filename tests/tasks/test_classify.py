"""Rows, labels, batches and scores of single-sentence classification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.tasks.classify import encode_rows, epoch_batches, label_names, read_examples, score
from bertsmith.text.store import TokenStore


def csv_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_columns_and_a_limit(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "id,text,label\n1,좋아요,1\n2,NA,0\n3,나빠요,0\n")
    rows = read_examples(path, text="text", label="label", limit=2)
    assert rows.texts == ["좋아요", "NA"]
    assert rows.labels == ["1", "0"]
    assert rows.lines == [2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\ngood,1\n  ,0\n", r"a\.csv:3: column 'text' is empty"),
        ("text,label\ngood,1\nbad,\n", r"a\.csv:3: column 'label' is empty"),
        ("text,lable\ngood,1\n", r"no column 'label'\. Did you mean 'lable'\? Columns: text, lable"),
        ("text,label\n", "no rows"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_examples(csv_file(tmp_path / "a.csv", content), text="text", label="label")


def test_labels(tmp_path: Path) -> None:
    def rows(name: str, *labels: str):
        content = "text,label\n" + "".join(f"t,{label}\n" for label in labels)
        return read_examples(csv_file(tmp_path / name, content), text="text", label="label")

    assert label_names(rows("a.csv", "10", "9", "-1"), rows("b.csv", "9")) == ("-1", "9", "10")
    assert label_names(rows("a.csv", "10.5", "9.5", "-1"), rows("b.csv", "9.5")) == ("-1", "9.5", "10.5")
    assert label_names(rows("a.csv", "--1", "²", "1"), rows("b.csv", "1")) == ("--1", "1", "²")
    assert label_names(rows("a.csv", "나쁨", "good"), rows("b.csv", "good")) == ("good", "나쁨")
    with pytest.raises(InputError, match=r"b\.csv:3: label 'maybe' is not among .* no, yes"):
        label_names(rows("a.csv", "yes", "no"), rows("b.csv", "no", "maybe"))
    with pytest.raises(InputError, match="every row has the label 'yes'"):
        label_names(rows("a.csv", "yes", "yes"), rows("b.csv", "yes"))


def test_encoding_counts_what_is_cut(tmp_path: Path, store: TokenStore) -> None:
    path = csv_file(tmp_path / "a.csv", "text,label\nthe cat sees the river,b\nthe cat,a\n")
    rows = read_examples(path, text="text", label="label")
    examples = encode_rows(rows, ("a", "b"), store.tokenizer, max_length=5)
    assert examples.truncated == 1
    assert len(examples.token_ids[0]) == 5
    assert examples.label_ids.tolist() == [1, 0]
    batch = examples.batch(np.array([1, 0]))
    assert batch.labels.tolist() == [0, 1]
    assert batch.token_ids[0] == store.tokenizer.cls_id


def test_an_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    first, again, other = epoch_batches(23, 5, 1, 0), epoch_batches(23, 5, 1, 0), epoch_batches(23, 5, 1, 1)
    assert [len(b) for b in first] == [5, 5, 5, 5, 3]
    assert sorted(np.concatenate(first)) == list(range(23))
    assert np.array_equal(np.concatenate(first), np.concatenate(again))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other))


def test_scores_by_hand() -> None:
    scores = score(np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1, 1, 1]), ("a", "b", "c"))
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.confusion == [[2, 1, 0], [0, 1, 0], [0, 1, 0]]
    a, b, c = scores.per_class
    assert (a.precision, a.recall, a.support) == (1.0, pytest.approx(2 / 3), 3)
    assert (b.precision, b.recall) == (pytest.approx(1 / 3), 1.0)
    assert c.f1 == 0.0
    assert scores.macro_f1 == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert not scores.collapsed
    assert score(np.array([0, 1]), np.array([1, 1]), ("a", "b")).collapsed
    assert "0.800" in scores.table()
