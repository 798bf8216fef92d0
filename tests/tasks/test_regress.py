"""Numbers: what is one, correlations by hand, and units that come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.task_config import RegressSettings
from bertsmith.tasks.regress import TASK
from bertsmith.tasks.texts import TextRows
from bertsmith.text.store import TokenStore

SETTINGS = RegressSettings.parse({"model": "m", "train": "a", "dev": "b", "output": "o"})


def rows(*labels: str) -> TextRows:
    numbers = range(2, len(labels) + 2)
    return TextRows([f"the cat {n}" for n in numbers], list(labels), list(numbers), Path("a.csv"))


@pytest.mark.parametrize("cell", ["much", "nan", "inf", "1,5", ""])
def test_what_is_no_number(cell: str) -> None:
    with pytest.raises(InputError, match=r"a\.csv:3: column 'label' is .*; expected a number"):
        TASK.facts(rows("1", cell), rows("1"), SETTINGS)


def test_one_value_only() -> None:
    with pytest.raises(InputError, match="every row has the value '2'"):
        TASK.facts(rows("2", "2"), rows("1"), SETTINGS)


def test_targets_are_standardised_and_predictions_are_not(store: TokenStore) -> None:
    labelled = rows("1", "3", "5", "11")
    facts = TASK.facts(labelled, labelled, SETTINGS)
    examples = TASK.encode(labelled, facts, store.tokenizer)
    targets = examples.batch(range(4)).labels
    assert float(targets.mean()) == pytest.approx(0, abs=1e-6)
    assert float(targets.std(unbiased=False)) == pytest.approx(1, rel=1e-5)
    outputs = [np.array([t], dtype=np.float32) for t in targets.tolist()]
    assert [p.value for p in TASK.predict(outputs, examples, labelled, facts)] == pytest.approx([1, 3, 5, 11], rel=1e-5)
    scores = TASK.score(outputs, examples, labelled, facts)
    assert list(scores.metrics.values()) == [pytest.approx(1.0), pytest.approx(1.0)]


def test_correlations_with_ties(store: TokenStore) -> None:
    labelled = rows("1", "2", "2", "3")
    facts = TASK.facts(labelled, labelled, SETTINGS)
    examples = TASK.encode(labelled, facts, store.tokenizer)
    scores = TASK.score([np.array([v], dtype=np.float32) for v in (10, 5, 20, 30)], examples, labelled, facts)
    # Ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4.
    assert scores.metrics["spearman"] == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [2, 1, 3, 4])[0, 1])
    assert scores.metrics["pearson"] == pytest.approx(np.corrcoef([1, 2, 2, 3], [10, 5, 20, 30])[0, 1])
    flat = TASK.score([np.array([0.5], dtype=np.float32)] * 4, examples, labelled, facts)
    assert flat.metrics == {"spearman": 0.0, "pearson": 0.0}
    assert flat.collapsed
