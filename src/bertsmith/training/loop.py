"""The one training loop: a step of micro-batches, over one process or several, one gradient, one update."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import OptimizerSettings
from bertsmith.errors import DivergedError
from bertsmith.training.device import autocast
from bertsmith.training.guard import HISTORY, TOO_MANY, refusal
from bertsmith.training.optimizer import apply_gradients
from bertsmith.training.processes import ALONE, Processes, in_parallel
from bertsmith.training.schedule import Schedule

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel


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
        recent: the losses of the last good steps.
        refused: bad steps in a row, up to now.
        returns: how often the run has gone back to its last checkpoint since it was written.
        offset: how many steps' batches a return to an earlier checkpoint has left out for good.
        loss_scale: the state of torch's GradScaler, in float16.
    """

    schedule: Schedule
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best: float = field(default=math.inf)
    recent: list[float] = field(default_factory=list)
    refused: int = 0
    returns: int = 0
    offset: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StepReport:
    """One step as it was.

    Attributes:
        step: steps done, this one included.
        losses: the mean of each kind of loss (nats).
        learning_rate: the rate it was made with.
        grad_norm: the gradient's global norm before clipping.
        tokens: tokens in this step, of all processes.
        seconds: the step's own time, without evaluations and checkpoints between steps.
        refusal: why the step did not change the weights; None for a good one.
        overflow: the factor of the loss at which a gradient in float16 was too large. The weights are as before, but
            that is no bad step: the next one has a smaller factor.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    refusal: str | None = None
    overflow: float | None = None

    @property
    def loss(self) -> float:
        """The sum of all losses: what was minimised."""
        return sum(self.losses.values())


def metrics_entry(report: StepReport, progress: Progress) -> dict[str, Any]:
    """Return a step as a line of metrics.jsonl; a number that JSON cannot hold is null."""
    entry = {
        "step": report.step,
        "kind": "refused" if report.refusal else "train" if report.overflow is None else "skipped",
        "loss": report.loss,
        **report.losses,
        "learning_rate": report.learning_rate,
        "grad_norm": report.grad_norm,
        "tokens": progress.tokens,
        "tokens_per_second": report.tokens / max(report.seconds, 1e-9),
        "seconds": progress.seconds,
    }
    held = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in entry.items()}
    if report.overflow is not None:
        return held | {"reason": f"a gradient in float16 was too large at a loss scale of {report.overflow:,.0f}"}
    return held | {"reason": report.refusal} if report.refusal else held


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
    processes: Processes = ALONE,
) -> Iterator[StepReport]:
    """Make steps until the schedule's end, and yield a report after each.

    ``batches`` gives this process's micro-batches of each step from ``progress.step`` on. The model is put back into
    training mode before every step, so the caller may evaluate between steps. A step whose loss or gradient is no
    number, or whose loss jumps (``settings.spike``), leaves the weights as they are; its report says so. In float16 the
    loss is scaled (Micikevicius et al. 2018), by torch's GradScaler.

    Raises:
        DivergedError: too many such steps came in a row.
    """
    parallel = None
    scaler = loss_scaler(dtype, device, progress.loss_scale)
    last = time.monotonic()
    while progress.step < progress.schedule.total_steps:
        begun = time.monotonic()
        micro_batches = next(batches)
        model.train()
        if parallel is None:
            parallel = in_parallel(model, objective, processes, micro_batches[0].to(device))
        learning_rate = progress.schedule.learning_rate(progress.step)
        losses = accumulate_gradients(
            model, micro_batches, objective, progress.step, device, dtype, seed, processes, parallel, scaler
        )
        loss = sum(losses.values())
        grad_norm, reason, overflow = _update(model, optimizer, learning_rate, progress, loss, settings, scaler)
        (tokens,) = processes.sums([sum(batch.num_tokens for batch in micro_batches if not batch.idle)])
        now = time.monotonic()
        progress.step += 1
        progress.tokens += int(tokens)
        progress.seconds += now - last
        if overflow is None:
            progress.refused = progress.refused + 1 if reason else 0
        if overflow is None and reason is None:
            progress.recent = [*progress.recent, loss][-HISTORY:]
        report = StepReport(progress.step, losses, learning_rate, grad_norm, int(tokens), now - begun, reason, overflow)
        last = now
        yield report
        if progress.refused >= TOO_MANY:
            raise DivergedError(
                f"{TOO_MANY} steps in a row, up to step {progress.step:,}, could not be used: {reason}. The weights "
                "are those from before; try a new run with a lower --learning-rate, a longer --warmup or float32"
            )


def _update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    progress: Progress,
    loss: float,
    settings: OptimizerSettings,
    scaler: torch.amp.GradScaler | None,
) -> tuple[float, str | None, float | None]:
    """Change the weights by the gradients; return the norm of these, and why nothing was changed: see StepReport."""
    scale = 1.0 if scaler is None else scaler.get_scale()
    reason, overflow = None, None

    def accept(grad_norm: float) -> bool:
        nonlocal reason, overflow
        # At a scale of 1 there is nothing left to lower.
        if scale > 1 and math.isfinite(loss) and not math.isfinite(grad_norm):
            overflow = scale
        else:
            reason = refusal(loss, grad_norm, progress.recent, settings.spike)
        return overflow is None and reason is None

    grad_norm = apply_gradients(model, optimizer, learning_rate, settings.max_grad_norm, accept, scaler)
    if scaler is not None:
        scaler.update()
        progress.loss_scale = scaler.state_dict()
    return grad_norm, reason, overflow


def loss_scaler(dtype: torch.dtype, device: torch.device, state: dict[str, float]) -> torch.amp.GradScaler | None:
    """Return what scales the loss in float16, so that small gradients do not vanish, from where it was; else None."""
    if dtype != torch.float16:
        return None
    scaler = torch.amp.GradScaler(device.type)
    if state:
        scaler.load_state_dict(state)
    return scaler


def accumulate_gradients(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    objective: Objective,
    step: int,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    processes: Processes = ALONE,
    parallel: DistributedDataParallel | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    """Add up the gradient of one step and return its mean losses.

    Each loss has one denominator, the count over all micro-batches of all processes: a step in one piece and the same
    step in several have the same gradient although the pieces hold different numbers of masked tokens.

    Args:
        model: what is trained.
        micro_batches: this process's pieces of the step; every process has as many.
        objective: the losses.
        step: counted from 0; with the piece's number and ``seed`` it draws the dropout.
        device: where the model is.
        dtype: of the matrix products.
        seed: of the run.
        processes: who else works on this step.
        parallel: the model as :func:`~bertsmith.training.processes.in_parallel` gives it.
        scaler: scales the loss, in float16; see :func:`loss_scaler`.
    """
    counts = [objective.counts(batch) for batch in micro_batches]
    names = list(counts[0])
    # An idle batch goes through the model because every process must; it adds nothing.
    weights = [0.0 if batch.idle else 1.0 for batch in micro_batches]
    totals = processes.sums([sum(w * count[name] for w, count in zip(weights, counts, strict=True)) for name in names])
    denominators = {name: max(1.0, total) for name, total in zip(names, totals, strict=True)}
    parts: list[dict[str, Tensor]] = []
    for number, (batch, weight) in enumerate(zip(micro_batches, weights, strict=True)):
        torch.manual_seed(dropout_seed(seed, step, processes.rank * len(micro_batches) + number))
        is_last = number == len(micro_batches) - 1
        with contextlib.nullcontext() if parallel is None or is_last else parallel.no_sync():
            with autocast(dtype, device):
                sums = (parallel or partial(objective.sums, model))(batch.to(device))
            means = {name: value * (weight / denominators[name]) for name, value in sums.items()}
            # The engine takes the mean over processes; what is wanted is the sum.
            total = torch.stack(list(means.values())).sum() * processes.size
            (total if scaler is None else scaler.scale(total)).backward()  # type: ignore[no-untyped-call]
        parts.append({name: mean.detach() for name, mean in means.items()})
    # Only now: asking a GPU for a number waits for it.
    losses = [sum(float(part[name]) for part in parts) for name in names]
    return dict(zip(names, processes.sums(losses), strict=True))


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
