"""What an ablation comes to, variant by variant."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskScores:
    """What a variant came to in a task.

    Attributes:
        task: its name: that of its file.
        metric: the dev metric that chose the epochs.
        scores: of every fine-tuning run, those of one pre-training after the other.
    """

    task: str
    metric: str
    scores: list[float]

    @property
    def mean(self) -> float:
        """Mean over all runs."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over all runs; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Row:
    """A variant and what came out; figures of pre-training are means over its runs, None without one.

    Attributes:
        variant: its name.
        about: what it is.
        steps: how many there were.
        tokens: seen in them.
        loss: held-out loss in its own task (nats): only comparable where the same tokens are predicted.
        next_sentence: held-out accuracy; None where it was not trained.
        tasks: scores, a task after the other.
    """

    variant: str
    about: str
    steps: float | None
    tokens: float | None
    loss: float | None
    next_sentence: float | None
    tasks: list[TaskScores]
