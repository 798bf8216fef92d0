"""Any labels a row: cells, targets, scores by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.errors import InputError
from bertsmith.task_config import MultilabelSettings
from bertsmith.tasks.multilabel import TASK, label_sets
from bertsmith.tasks.task import Source
from bertsmith.tasks.texts import TextRows
from bertsmith.text.store import TokenStore

SETTINGS = MultilabelSettings.parse({"model": "m", "train": "a", "dev": "b", "output": "o"})


def rows(*labels: str) -> TextRows:
    numbers = range(2, len(labels) + 2)
    return TextRows([f"the cat {n}" for n in numbers], list(labels), list(numbers), Path("a.csv"))


def test_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nx,late|rude\ny,\nz, late \n", encoding="utf-8")
    read = TASK.read(Source(tmp_path / "a.csv", {"text": "text", "label": "label"}))
    assert label_sets(read, "|") == [{"late", "rude"}, set(), {"late"}]
    assert TASK.facts(read, read, SETTINGS)["labels"] == ["late", "rude"]


@pytest.mark.parametrize("cell", ["a|", "a||b", "a|a"])
def test_cells_that_are_no_labels(cell: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:3: column 'label' is .*expected different labels"):
        label_sets(rows("a", cell), "|")


def test_a_label_only_in_dev_and_no_labels_at_all() -> None:
    with pytest.raises(InputError, match=r"a\.csv:2: label 'c' is not among .*: a, b"):
        TASK.facts(rows("a|b"), rows("c"), SETTINGS)
    with pytest.raises(InputError, match="no row has a label"):
        TASK.facts(rows("", ""), rows("a"), SETTINGS)


def test_targets_and_loss(store: TokenStore) -> None:
    labelled = rows("a|b", "", "b")
    facts = TASK.facts(labelled, labelled, SETTINGS)
    batch = TASK.encode(labelled, facts, store.tokenizer).batch([2, 0, 1])
    assert batch.labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert TASK.counts(batch) == {"loss": 6}
    loss = TASK.sums(lambda b: torch.zeros(3, 2), batch, facts)["loss"]
    assert float(loss) == pytest.approx(6 * np.log(2), rel=1e-5)


def test_scores_and_predictions_by_hand(store: TokenStore) -> None:
    labelled = rows("a|b", "", "b")
    facts = TASK.facts(labelled, labelled, SETTINGS)
    examples = TASK.encode(labelled, facts, store.tokenizer)
    outputs = [np.array(v, dtype=np.float32) for v in ([2, 3], [-1, 4], [1, -2])]
    scores = TASK.score(outputs, examples, labelled, facts)
    # a: right once, wrong once, missed never; b: right once, wrong once, missed once.
    assert scores.metrics["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert scores.metrics["macro_f1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.metrics["exact_match"] == pytest.approx(1 / 3)
    assert [(m.gold, m.predicted) for m in scores.mistakes] == [("(none)", "b"), ("b", "a")]
    found = TASK.predict(outputs, examples, labelled, facts)
    assert [p.labels for p in found] == [("a", "b"), ("b",), ("a",)]
    assert found[0].to_json()["scores"]["a"] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)


def test_the_balance_counts_each_label() -> None:
    assert sorted(TASK.answers(rows("x|y", "", "y"), {"separator": "|"})) == ["x", "y", "y"]
