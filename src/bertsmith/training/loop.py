"""The one training loop: a step of micro-batches, one gradient, one update."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import OptimizerSettings
from bertsmith.training.device import autocast
from bertsmith.training.optimizer import apply_gradients
from bertsmith.training.schedule import Schedule


@dataclass(frozen=True)
class Objective:
    """What a step minimises: a sum of losses, each a mean over all that the step predicts of its kind.

    Attributes:
        counts: how many predictions of each kind a batch holds, by the loss's name.
        sums: the summed loss of each kind (nats, with gradient), by the same names.
    """

    counts: Callable[[Batch], dict[str, int]]
    sums: Callable[[nn.Module, Batch], dict[str, Tensor]]


@dataclass
class Progress:
    """How far a run is; with the weights and the optimiser's state all that a resumed run needs.

    Attributes:
        schedule: the learning rate; replaced when a budget's estimate changes.
        step: steps done.
        tokens: tokens seen.
        seconds: time spent, over all sessions of the run.
        best: the lowest held-out loss so far.
    """

    schedule: Schedule
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float = field(default=math.inf)


@dataclass(frozen=True)
class StepReport:
    """One step as it was.

    Attributes:
        step: steps done, this one included.
        losses: the mean of each kind of loss (nats).
        learning_rate: the rate it was made with.
        grad_norm: the gradient's global norm before clipping.
        tokens: tokens in this step.
        seconds: the step's own time, without evaluations and checkpoints between steps.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float

    @property
    def loss(self) -> float:
        """The sum of all losses: what was minimised."""
        return sum(self.losses.values())


def metrics_entry(report: StepReport, progress: Progress) -> dict[str, Any]:
    """Return a step as a line of metrics.jsonl."""
    return {
        "step": report.step,
        "kind": "train",
        "loss": report.loss,
        **report.losses,
        "learning_rate": report.learning_rate,
        "grad_norm": report.grad_norm,
        "tokens": progress.tokens,
        "tokens_per_second": report.tokens / max(report.seconds, 1e-9),
        "seconds": progress.seconds,
    }


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    batches: Iterator[Sequence[Batch]],
    objective: Objective,
    *,
    settings: OptimizerSettings,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> Iterator[StepReport]:
    """Make steps until the schedule's end, and yield a report after each.

    ``batches`` gives the micro-batches of each step from ``progress.step`` on. The model is put back into
    training mode before every step, so the caller may evaluate between steps.
    """
    last = time.monotonic()
    while progress.step < progress.schedule.total_steps:
        begun = time.monotonic()
        micro_batches = next(batches)
        model.train()
        learning_rate = progress.schedule.learning_rate(progress.step)
        losses = accumulate_gradients(model, micro_batches, objective, progress.step, device, dtype, seed)
        grad_norm = apply_gradients(model, optimizer, learning_rate, settings.max_grad_norm)
        tokens = sum(batch.num_tokens for batch in micro_batches)
        now = time.monotonic()
        progress.step += 1
        progress.tokens += tokens
        progress.seconds += now - last
        report = StepReport(progress.step, losses, learning_rate, grad_norm, tokens, now - begun)
        last = now
        yield report


def accumulate_gradients(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    objective: Objective,
    step: int,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
) -> dict[str, float]:
    """Add up the gradient of one step and return its mean losses.

    Each loss has one denominator, the count over all micro-batches: a step in one piece and the same step in
    several have the same gradient although the pieces hold different numbers of masked tokens.
    """
    counts = [objective.counts(batch) for batch in micro_batches]
    totals = {name: max(1, sum(count[name] for count in counts)) for name in counts[0]}
    losses = dict.fromkeys(totals, 0.0)
    for number, batch in enumerate(micro_batches):
        torch.manual_seed(dropout_seed(seed, step, number))
        with autocast(dtype, device):
            sums = objective.sums(model, batch.to(device))
        means = {name: value / totals[name] for name, value in sums.items()}
        torch.stack(list(means.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, mean in means.items():
            losses[name] += float(mean.detach())
    return losses


def dropout_seed(*key: int | str) -> int:
    """Return a seed for torch that depends on ``key`` alone: dropout is the same after a resume."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "big")


class StopRequest:
    """Turns the first Ctrl-C (or SIGTERM) into a flag, so that a step ends and a checkpoint is written.

    A second one interrupts at once. Outside the main thread signals stay as they are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
