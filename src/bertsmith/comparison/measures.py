"""What is compared: a figure that adds up over rows, so that rows can be drawn again many times (the bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.tasks.tag_schemes import to_spans
from bertsmith.tasks.task import Facts

Answers = Sequence[Any] | np.ndarray
"""One a row: a label's number, or an array of tags' numbers."""

_DRAWS = 1000


@dataclass(frozen=True)
class Measure:
    """A figure of answers against gold ones.

    Attributes:
        name: as in scores.
        counts: gold and answers to (rows, K): what each row adds to the figure's counts.
        value: counts (..., K), summed over rows, to the figure.
        is_right: gold and answers to (rows,) bool.
    """

    name: str
    counts: Callable[[Answers, Answers], np.ndarray]
    value: Callable[[np.ndarray], np.ndarray]
    is_right: Callable[[Answers, Answers], np.ndarray]

    def of(self, gold: Answers, answers: Answers) -> float:
        """Return the figure over all rows."""
        return float(self.value(self.counts(gold, answers).sum(0)))


@dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval."""

    difference: float
    low: float
    high: float


def measure_of(task: str, name: str | None, facts: Facts) -> Measure:
    """Return what a task is compared by: ``name``, or the task's own choice where that is None."""
    if task == "tag":
        if name == "accuracy" or not facts["scheme"]:
            return Measure("accuracy", _right_tags, _share, _same_arrays)
        return Measure("f1", lambda gold, said: _entities(gold, said, facts["labels"]), _f1, _same_arrays)
    if name == "accuracy":
        return Measure("accuracy", _right_labels, _share, _same_labels)
    size = len(facts["labels"])
    return Measure("macro_f1", lambda gold, said: _right_and_all(gold, said, size), _macro_f1, _same_labels)


def compare(
    measure: Measure, gold: Answers, first: Sequence[Answers], second: Sequence[Answers], seed: int
) -> Interval:
    """Return how much better ``first`` is than ``second``, with an interval of the percentiles of a paired bootstrap.

    Rows are drawn with replacement, the same for both sides, and so are each side's runs: another seed would have been
    as good. A side's figure is the mean over its runs.

    Args:
        measure: what is compared.
        gold: the right answers.
        first: answers of each run.
        second: those of each run of the other side.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    sides = [[measure.counts(gold, answers) for answers in runs] for runs in (first, second)]
    plain, drawn = [], []
    rows = len(gold)
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=_DRAWS).astype(np.float64)
    for side in sides:
        plain.append(np.mean([measure.value(counts.sum(0)) for counts in side]))
        figures = np.stack([measure.value(weights @ counts) for counts in side], 1)  # (draws, runs)
        runs = rng.integers(0, len(side), figures.shape)
        drawn.append(np.take_along_axis(figures, runs, 1).mean(1))
    low, high = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    return Interval(float(plain[0] - plain[1]), float(low), float(high))


def _right_and_all(gold: Answers, said: Answers, size: int) -> np.ndarray:
    """Return (rows, 2 * size): for each label 1 where it is said rightly, then how often it is right or said."""
    rows, right, answers = np.arange(len(gold)), np.asarray(gold), np.asarray(said)
    counts = np.zeros((len(gold), 2 * size), dtype=np.float32)
    counts[rows[right == answers], right[right == answers]] = 1
    counts[rows, size + right] += 1
    counts[rows, size + answers] += 1
    return counts


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    right, total = np.split(np.asarray(counts, dtype=np.float64), 2, axis=-1)
    mean: np.ndarray = np.divide(2 * right, total, out=np.zeros_like(right), where=total > 0).mean(-1)
    return mean


def _right_labels(gold: Answers, said: Answers) -> np.ndarray:
    right = np.asarray(gold) == np.asarray(said)
    return np.stack([right, np.ones_like(right)], 1).astype(np.float64)


def _right_tags(gold: Answers, said: Answers) -> np.ndarray:
    return np.array([((g == s).sum(), len(g)) for g, s in zip(gold, said, strict=True)], dtype=np.float64)


def _share(counts: np.ndarray) -> np.ndarray:
    share: np.ndarray = counts[..., 0] / np.maximum(counts[..., 1], 1)
    return share


def _entities(gold: Answers, said: Answers, labels: Sequence[str]) -> np.ndarray:
    """Return (rows, 2): entities found right, and the number of right ones and of found ones together."""

    def spans(numbers: np.ndarray) -> set[Any]:
        return set(to_spans([labels[n] for n in numbers], "BIO"))

    pairs = [(spans(g), spans(s)) for g, s in zip(gold, said, strict=True)]
    return np.array([(len(g & s), len(g) + len(s)) for g, s in pairs], dtype=np.float64)


def _f1(counts: np.ndarray) -> np.ndarray:
    f1: np.ndarray = 2 * counts[..., 0] / np.maximum(counts[..., 1], 1)
    return f1


def _same_labels(gold: Answers, said: Answers) -> np.ndarray:
    same: np.ndarray = np.asarray(gold) == np.asarray(said)
    return same


def _same_arrays(gold: Answers, said: Answers) -> np.ndarray:
    return np.array([np.array_equal(g, s) for g, s in zip(gold, said, strict=True)])
