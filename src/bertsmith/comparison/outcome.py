"""What a comparison comes to: figures of each model, differences from fine-tuned BERT, and one sentence."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertsmith.comparison.contenders import REFERENCE, Contender
from bertsmith.comparison.measures import Answers, Interval, Measure, compare
from bertsmith.tasks.scores import spoken

FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Parts of the training rows that learning curves are made of, beside all."""

_EXAMPLES = 20
# What is called as good: at worst (at the lower end of the interval) so much below fine-tuned BERT.
_AS_GOOD = 0.02


@dataclass(frozen=True)
class Standing:
    """One model's figures on the test rows.

    Attributes:
        name, about: which model.
        pretrained: whether it has pre-trained weights.
        setting: the chosen one; None if it has none.
        dev: mean of the measure on dev, over the seeds.
        scores: of each seed, on the test rows.
        difference: from fine-tuned BERT, with its interval; None for BERT itself, or without it.
        train_seconds, predict_seconds: medians over the seeds.
        parameters: numbers in it.
        curve: (training rows, score) of learning on parts of them and on all.
    """

    name: str
    about: str
    pretrained: bool
    setting: float | None
    dev: float
    scores: list[float]
    difference: Interval | None
    train_seconds: float
    predict_seconds: float
    parameters: int
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Example:
    """A test row that one of two models gets right in most of its runs and the other does not.

    Attributes:
        line: where it stands in the file.
        text: what it says.
        gold: the right answer.
        first, second: what the two say, in most of their runs.
    """

    line: int
    text: str
    gold: str
    first: str
    second: str


def differences(
    measure: Measure, gold: Answers, runs: Mapping[str, Sequence[Answers]], seed: int
) -> dict[str, Interval | None]:
    """Return each model's difference from fine-tuned BERT, by name."""
    reference = runs.get(REFERENCE)
    return {
        name: None if reference is None or name == REFERENCE else compare(measure, gold, answers, reference, seed)
        for name, answers in runs.items()
    }


def best_without(standings: Sequence[Standing]) -> Standing | None:
    """Return the model that is best on dev among those without pre-trained weights that are no BERT."""
    return _best([s for s in standings if not s.pretrained and not s.name.startswith("bert")])


def _best(standings: Sequence[Standing]) -> Standing | None:
    """Return the best on dev, of equal ones the first: the test rows choose nothing."""
    return max(standings, key=lambda s: s.dev) if standings else None


def conclusion(standings: Sequence[Standing], measure: str) -> str:
    """Return what to use here in a sentence, by the intervals of the differences from fine-tuned BERT."""
    bert = next((s for s in standings if s.name == REFERENCE), None)
    other, name = best_without(standings), spoken(measure)
    if bert is None or other is None or other.difference is None:
        best = _best(standings)
        assert best is not None
        return f"Best here: {best.name} ({best.about}), {name} {best.mean:.3f}."
    frozen = _best([s for s in standings if s.pretrained and s.name != REFERENCE])
    if frozen is not None and frozen.difference is not None and frozen.difference.low > 0 and frozen.mean > other.mean:
        return (
            f"On frozen BERT vectors {frozen.name} is better here than fine-tuned BERT: {name} {frozen.mean:.3f} "
            f"against {bert.mean:.3f}; the best model without BERT, {other.name}, has {other.mean:.3f}."
        )
    gap = other.difference
    interval = f"95 % interval of the difference {min(abs(gap.low), abs(gap.high)):.3f} to"
    if gap.high < 0:
        return (
            f"Fine-tuned BERT is better here than the best model without it, {other.name}: {name} {bert.mean:.3f} "
            f"against {other.mean:.3f} ({interval} {-gap.low:.3f})."
        )
    if gap.low > 0:
        return (
            f"{other.name} is better here than fine-tuned BERT; use that: {name} {other.mean:.3f} against "
            f"{bert.mean:.3f} ({interval} {gap.high:.3f})."
        )
    if gap.low >= -_AS_GOOD:
        return (
            f"{other.name} is as good here as fine-tuned BERT; use that: {name} {other.mean:.3f} against "
            f"{bert.mean:.3f} (95 % interval of the difference {gap.low:+.3f} to {gap.high:+.3f})."
        )
    return (
        f"These test rows cannot tell {other.name} from fine-tuned BERT: {name} {other.mean:.3f} against "
        f"{bert.mean:.3f} (95 % interval of the difference {gap.low:+.3f} to {gap.high:+.3f}); more of them would."
    )


def only_one_right(measure: Measure, gold: Answers, first: Sequence[Answers], second: Sequence[Answers]) -> np.ndarray:
    """Return the numbers of rows that ``first`` gets right in most of its runs and ``second`` in none of its."""
    right, other = (np.mean([measure.is_right(gold, run) for run in runs], axis=0) for runs in (first, second))
    return np.flatnonzero((right > 0.5) & (other == 0))[:_EXAMPLES]


def usual_answer(runs: Sequence[Answers], row: int) -> Any:
    """Return what most of a model's runs say of a row; of equally many, what the first of them says."""
    answers = [run[row] for run in runs]
    return max(answers, key=lambda answer: sum(np.array_equal(answer, other) for other in answers))


def described(contender: Contender, setting: float) -> float | None:
    """Return a contender's setting, None where it has none."""
    return setting if len(contender.settings) > 1 else None


def as_json(standings: Sequence[Standing]) -> list[dict[str, Any]]:
    """Return the figures as plain values."""
    found = []
    for s in standings:
        gap = s.difference
        found.append(
            {
                "model": s.name,
                "about": s.about,
                "setting": s.setting,
                "dev": s.dev,
                "scores": s.scores,
                "mean": s.mean,
                "deviation": s.deviation,
                "difference_from_bert": None if gap is None else [gap.difference, gap.low, gap.high],
                "train_seconds": s.train_seconds,
                "predict_seconds": s.predict_seconds,
                "parameters": s.parameters,
                "curve": s.curve,
            }
        )
    return found
