"""Runs that end on time: how long a step takes here, and how many fit into what is left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from bertsmith.batch import Batch
from bertsmith.config import OptimizerSettings
from bertsmith.training.loop import Objective, Progress, train
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.processes import ALONE, Processes
from bertsmith.training.schedule import Schedule, fixed

# The estimate is renewed this often in a run: machines are shared, and their speed drifts.
_FITS = 50


@dataclass
class Budget:
    """Fits the number of steps to the time that is left.

    Attributes:
        seconds: for training with its evaluations and checkpoints.
        start: the moment (monotonic) at which the run would have begun, had it been made in one piece.
        most_steps: the run's end, however much time is left.
        fitted_seconds: ``Progress.seconds`` at the last fit.
        fitted_step: ``Progress.step`` at the last fit.
    """

    seconds: float
    start: float
    most_steps: int
    fitted_seconds: float = 0.0
    fitted_step: int = 0

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.start)

    def last_step(self, step: int, step_seconds: float) -> int:
        """Return the number of steps at the end, if those after ``step`` take ``step_seconds``; at least one more."""
        return max(step + 1, min(step + int(self.left() / step_seconds), self.most_steps))

    def refit(self, progress: Progress) -> Schedule:
        """Return the schedule, fitted anew when it is due, and ended here when time is over."""
        schedule, step = progress.schedule, progress.step
        if self.left() <= 0:
            return replace(schedule, segments=(*schedule.segments, (step, schedule.progress(step), step)))
        steps = step - self.fitted_step
        if progress.seconds - self.fitted_seconds < self.seconds / _FITS or steps < 3:
            return schedule
        # The time of evaluations and checkpoints is part of a step's average.
        step_seconds = (progress.seconds - self.fitted_seconds) / steps
        self.fitted_seconds, self.fitted_step = progress.seconds, step
        return schedule.refit(step, self.last_step(step, step_seconds))


def measure_step(
    model: nn.Module,
    batches: Callable[[int], Sequence[Batch]],
    objective: Objective,
    settings: OptimizerSettings,
    device: torch.device,
    dtype: torch.dtype,
    *,
    at_most: float,
    processes: Processes = ALONE,
) -> float:
    """Return the seconds of a step, timed for about ``at_most`` seconds; at a learning rate of 0 no weight changes.

    ``processes`` take part in every step, as those of a sharded model must.
    """
    steps = train(
        model,
        make_optimizer(model, settings),
        Progress(fixed(0.0, 0.0, 1_000)),
        (batches(step) for step in itertools.count()),
        objective,
        settings=settings,
        device=device,
        dtype=dtype,
        seed=settings.seed,
        processes=processes,
    )
    begun = time.monotonic()
    times: list[float] = []
    for report in steps:
        times.append(report.seconds)
        if len(times) >= 4 and processes.any(time.monotonic() - begun > at_most):
            break
    # The first step allocates memory and plans instances.
    return sum(times[1:]) / len(times[1:])
