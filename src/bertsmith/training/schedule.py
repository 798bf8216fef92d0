"""The learning rate over a run: linear warm-up, linear decay to zero (appendix A.2), and runs that end on time."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Schedule:
    """How far the run is at each step, between 0 and 1, and the learning rate that follows from it.

    With a fixed number of steps there is one segment and progress is step / steps. A run with a time budget
    learns its speed as it goes: each new estimate of the last step begins a segment, and progress stays
    continuous. The segments are part of a checkpoint, so a resumed run has the same schedule.

    Attributes:
        peak: the highest learning rate.
        warmup: share of the run over which the rate rises from 0.
        segments: (first step, progress there, last step of the run as estimated then).
    """

    peak: float
    warmup: float
    segments: tuple[tuple[int, float, int], ...]

    @property
    def total_steps(self) -> int:
        """The run's number of steps by the latest estimate."""
        return self.segments[-1][2]

    def progress(self, step: int) -> float:
        """Return the share of the run that is done before ``step`` (counted from 0)."""
        start, before, end = next(s for s in reversed(self.segments) if s[0] <= step)
        return min(1.0, before + (1 - before) * (step - start) / max(1, end - start))

    def learning_rate(self, step: int) -> float:
        """Return the rate of ``step`` (counted from 0); the first step already has one step's warm-up."""
        rising = self.progress(step + 1) / self.warmup if self.warmup else 1.0
        falling = (1 - self.progress(step)) / (1 - self.warmup)
        return self.peak * min(1.0, rising, falling)

    def refit(self, step: int, total_steps: int) -> Schedule:
        """Return the schedule that from ``step`` on ends at ``total_steps``."""
        return replace(self, segments=(*self.segments, (step, self.progress(step), max(step + 1, total_steps))))


def fixed(peak: float, warmup: float, steps: int) -> Schedule:
    """Return the schedule of a run with a known number of steps."""
    return Schedule(peak, warmup, ((0, 0.0, steps),))
