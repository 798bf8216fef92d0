"""Figures that add up over rows, and intervals of their differences."""

from __future__ import annotations

import numpy as np
import pytest

from bertsmith.comparison.measures import Measure, compare, measure_of
from bertsmith.tasks.scores import label_scores
from bertsmith.tasks.tag_schemes import entity_scores, to_spans

LABELS = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def random_tags(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    # Well-formed: an I only after its own B or I.
    found = []
    for length in rng.integers(1, 12, 30):
        tags = [0]
        for tag in rng.integers(0, 5, length):
            fits = tag not in (2, 4) or tags[-1] in (tag, tag - 1)
            tags.append(int(tag) if fits else 0)
        found.append(np.array(tags[1:]) if tags[1] not in (2, 4) else np.array([0, *tags[2:]]))
    return found


@pytest.mark.parametrize("name", ["macro_f1", "accuracy"])
def test_labels_as_everywhere_else(name: str) -> None:
    rng = np.random.default_rng(1)
    gold, said = rng.integers(0, 3, 57), rng.integers(0, 3, 57)
    measure = measure_of("classify", name, {"labels": ["a", "b", "c", "never seen"]})
    expected = label_scores(gold, said, ["a", "b", "c", "never seen"]).metrics[name]
    assert measure.of(gold, said) == pytest.approx(expected)
    assert np.array_equal(measure.is_right(gold, said), gold == said)


def test_entities_as_everywhere_else() -> None:
    gold = random_tags(1)
    rng = np.random.default_rng(3)
    # Half of the sentences are answered rightly.
    said = [g if rng.random() < 0.5 else np.zeros_like(g) for g in gold]
    facts = {"labels": LABELS, "scheme": "BIO"}
    spans = [[to_spans([LABELS[n] for n in tags], "BIO") for tags in side] for side in (gold, said)]
    figures, _ = entity_scores(*spans, [len(tags) for tags in gold])
    assert measure_of("tag", None, facts).of(gold, said) == pytest.approx(figures["f1"])
    together = np.concatenate(gold) == np.concatenate(said)
    assert measure_of("tag", "accuracy", facts).of(gold, said) == pytest.approx(together.mean())
    assert measure_of("tag", None, {"labels": LABELS, "scheme": None}).name == "accuracy"


def slow_interval(measure: Measure, gold: np.ndarray, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    rng = np.random.default_rng(77)
    found = []
    for _ in range(1500):
        rows = rng.integers(0, len(gold), len(gold))
        sides = [[side[n] for n in rng.integers(0, len(side), len(side))] for side in (first, second)]
        means = [np.mean([measure.of(gold[rows], run[rows]) for run in side]) for side in sides]
        found.append(means[0] - means[1])
    return np.percentile(found, [2.5, 97.5])


def test_interval_is_that_of_rows_drawn_again() -> None:
    rng = np.random.default_rng(2)
    gold = rng.integers(0, 3, 211)

    def noisy(share: float) -> np.ndarray:
        return np.where(rng.random(len(gold)) < share, rng.integers(0, 3, len(gold)), gold)

    first, second = [noisy(0.3), noisy(0.32)], [noisy(0.35), noisy(0.6)]
    measure = measure_of("classify", "macro_f1", {"labels": ["a", "b", "c"]})
    found = compare(measure, gold, first, second, seed=0)
    assert found.difference == pytest.approx(
        np.mean([measure.of(gold, r) for r in first]) - np.mean([measure.of(gold, r) for r in second])
    )
    assert [found.low, found.high] == pytest.approx(slow_interval(measure, gold, first, second), abs=0.012)
    same = compare(measure, gold, first[:1], first[:1], seed=0)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    rows_alone = compare(measure, gold, first[:1], second[1:], seed=0)
    assert found.high - found.low > 1.2 * (rows_alone.high - rows_alone.low), "seeds that differ widen it"


def test_many_labels_take_little_memory() -> None:
    rng = np.random.default_rng(1)
    gold, said = rng.integers(0, 150, (2, 400))
    measure = measure_of("classify", "macro_f1", {"labels": [str(n) for n in range(150)]})
    assert measure.counts(gold, said).nbytes < 1e6
    assert measure.of(gold, said) == pytest.approx(
        label_scores(gold, said, [str(n) for n in range(150)]).metrics["macro_f1"]
    )
