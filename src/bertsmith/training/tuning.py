"""Fine-tuning with one seed, and the checkpoints that let a stopped run go on with the same result."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch
from bertsmith.catalogue.translate import translated
from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.task_config import FinetuneSettings
from bertsmith.tasks.scores import Scores, spoken
from bertsmith.tasks.task import Examples, Facts, Task
from bertsmith.training.apply import apply_model
from bertsmith.training.checkpoint import (
    METRICS,
    MetricsLog,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
    save_optimizer,
)
from bertsmith.training.disk import Disk
from bertsmith.training.loop import Objective, Progress, StepReport, StopRequest, dropout_seed, metrics_entry, train
from bertsmith.training.optimizer import make_finetuning_optimizer
from bertsmith.training.processes import ALONE, Processes
from bertsmith.training.schedule import fixed
from bertsmith.training.sharding import fill, gathered, is_wanted, shard

Weights = dict[str, Tensor]

# Section 3.2 tunes for 3 epochs. Few rows need more of them (Zhang et al. 2021, section 6): see ``min_steps``.
_EPOCHS = 3
# What a seed's state has of the loop's progress.
_OF_THE_LOOP = ("step", "tokens", "seconds", "recent", "refused", "loss_scale")
# A run with many epochs is evaluated about so often.
_EVALUATIONS = 10


@dataclass(frozen=True)
class TaskData:
    """Rows and examples of a run, and what its model must remember."""

    task: Task
    facts: Facts
    train: Examples
    dev: Examples
    dev_rows: Any


@dataclass
class SeedState:
    """How far the run with one seed is.

    Attributes:
        seed: its number.
        step: steps done.
        tokens: tokens seen.
        seconds: time spent.
        best_epoch: the epoch with the best dev metric; None before the first evaluation.
        metrics: the dev metrics then.
        tuned: what was chosen on dev then.
        collapsed: whether all dev rows got the same answer then.
        worse: evaluations since then.
        recent, refused, loss_scale: as in the loop's progress.
    """

    seed: int
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_epoch: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)
    collapsed: bool = False
    worse: int = 0
    recent: list[float] = field(default_factory=list)
    refused: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)


@dataclass
class RunState:
    """All seeds of a run, the last one under way; the weights of the best seed and of the current one's best epoch.

    Where the model is sharded only the first process holds these weights.
    """

    seeds: list[SeedState] = field(default_factory=list)
    best: Weights = field(default_factory=dict)
    current: Weights = field(default_factory=dict)


def _never(epoch: float, best: float) -> bool:
    return False


@dataclass(frozen=True)
class Session:
    """What stays the same while one process works on a run.

    Attributes:
        settings, config, encoder, data, device, dtype: what is trained on what, where.
        metrics, stop, disk, log: where it reports to, and the user's wish to stop; None writes nothing (the processes
            beside the first).
        processes: who else works on it.
        after_epoch: called between epochs with those done and the best dev metric so far; true ends the seed.
        keeps_checkpoints: whether a stopped seed can go on.
    """

    settings: FinetuneSettings
    config: ModelConfig
    encoder: Bert | None
    data: TaskData
    device: torch.device
    dtype: torch.dtype
    metrics: MetricsLog | None
    stop: StopRequest
    disk: Disk
    log: Log
    processes: Processes = ALONE
    after_epoch: Callable[[float, float], bool] = _never
    keeps_checkpoints: bool = True

    @property
    def is_sharded(self) -> bool:
        """Whether the model is cut over the processes."""
        return is_wanted(self.settings, self.processes)

    @property
    def holds_weights(self) -> bool:
        """Whether this process holds whole weights outside of the model that is trained."""
        return self.processes.is_first or not self.is_sharded

    @property
    def steps_per_epoch(self) -> int:
        """Steps in a pass over the training examples."""
        return math.ceil(len(self.data.train.lengths) / self.settings.batch_size)

    @property
    def epochs(self) -> float:
        """Passes over the training examples: as set, or 3, or as many as make the fewest steps."""
        return self.settings.epochs or _EPOCHS * self.stretch

    @property
    def stretch(self) -> float:
        """How many times as many epochs as usual so few examples need; at least 1."""
        return math.ceil(max(_EPOCHS, self.settings.min_steps / self.steps_per_epoch)) / _EPOCHS

    @property
    def steps_per_evaluation(self) -> int:
        """Steps from one evaluation to the next: an epoch, or several in a run of many."""
        return self.steps_per_epoch * max(1, round(self.epochs / _EVALUATIONS))

    @property
    def total_steps(self) -> int:
        """Steps with one seed."""
        return max(1, round(self.epochs * self.steps_per_epoch))


def tune(session: Session, run: RunState, checkpoint: Path | None) -> bool:
    """Tune with the last seed of ``run``, from ``checkpoint`` on if there is one; False when the user stopped it.

    The seed's state is kept up to date; the weights of its best epoch end up in ``run.current``.
    """
    settings, data, state = session.settings, session.data, run.seeds[-1]
    model = _model(session, state.seed)
    optimizer = make_finetuning_optimizer(model, settings)
    if checkpoint is not None:
        fill(model, load_file(checkpoint / "current.safetensors") if session.holds_weights else {})
        load_optimizer(checkpoint, model, optimizer)
        if session.metrics is not None:
            session.metrics.warn_of_gaps({seed.seed: seed.step for seed in run.seeds}, session.log)
    total = session.total_steps
    assert settings.learning_rate is not None
    schedule = fixed(settings.learning_rate, settings.warmup, total)
    progress = Progress(schedule, **{name: getattr(state, name) for name in _OF_THE_LOOP})
    steps = train(
        model,
        optimizer,
        progress,
        _batches(data.train, settings.batch_size, state.seed, state.step, session.processes),
        _objective(data),
        settings=settings,
        device=session.device,
        dtype=session.dtype,
        seed=state.seed,
        processes=session.processes,
    )
    with session.log.progress(f"fine-tuning, seed {state.seed}", total - state.step, "steps") as advance:
        for report in steps:
            for name in _OF_THE_LOOP:
                setattr(state, name, getattr(progress, name))
            _record(session, {"seed": state.seed, **metrics_entry(report, progress)} | _rows(session, state, report))
            advance(1, loss=f"{report.loss:.3f}")
            if report.refusal is not None:
                what = f"step {report.step:,} was bad: {report.refusal}; {METRICS} names its examples"
                if settings.bad_steps == "stop":
                    raise InputError(f"{what}. Lower --learning-rate, or leave it out with --bad-steps skip")
                session.log.warn(f"{what}. It is left out")
            is_due = report.step % session.steps_per_evaluation == 0 or report.step == total
            if is_due:
                _evaluate(session, run, model)
                if report.step == total:
                    break
                if settings.patience is not None and state.worse >= settings.patience:
                    session.log.say(
                        f"seed {state.seed}: no better for {state.worse} evaluations, stopped early (--patience)"
                    )
                    break
                if session.after_epoch(state.step / session.steps_per_epoch, _best_metric(session, state)):
                    break
            stopped = session.processes.any(session.stop.requested)
            if session.keeps_checkpoints and (is_due or stopped):
                _save(session, run, model, optimizer)
            if stopped:
                return False
    if state.collapsed:
        session.log.warn(
            f"seed {state.seed} collapsed: every dev row got the same answer. "
            "Try another seed, a lower learning rate, a longer warm-up or more epochs"
        )
    return True


def _objective(data: TaskData) -> Objective:
    return Objective(data.task.counts, lambda model, batch: data.task.sums(model, batch, data.facts))


def _record(session: Session, entry: dict[str, Any]) -> None:
    if session.metrics is not None:
        session.metrics.write(entry)


def _rows(session: Session, state: SeedState, report: StepReport) -> dict[str, list[int]]:
    """Return which examples (counted from 0) a bad step was made of."""
    if report.refusal is None:
        return {}
    rows, size = len(session.data.train.lengths), session.settings.batch_size
    epoch, number = divmod(report.step - 1, session.steps_per_epoch)
    return {"examples": epoch_batches(rows, size, state.seed, epoch)[number].tolist()}


def _model(session: Session, seed: int) -> nn.Module:
    torch.manual_seed(dropout_seed(seed, "initial weights"))
    with contextlib.nullcontext() if session.holds_weights else torch.device("meta"):
        model = session.data.task.model(session.config, session.data.facts)
    if session.encoder is not None:
        bert: Bert = model.bert  # type: ignore[assignment]
        # An LSTM on top is as new as the output layer, unless the encoder was already tuned with one.
        bert.load_state_dict(bert.state_dict() | session.encoder.state_dict())
    if session.settings.compile:
        model.bert.compile_layers()  # type: ignore[operator, union-attr]
    return on_device(session, model)


def on_device(session: Session, model: nn.Module) -> nn.Module:
    """Return a model where it is to compute, and cut over the processes if the session wants that."""
    return shard(model, session.device, session.processes) if session.is_sharded else model.to(session.device)


def _evaluate(session: Session, run: RunState, model: nn.Module) -> None:
    """Score the dev rows and keep the weights if they are the best so far."""
    state = run.seeds[-1]
    scores = score_dev(session, model)
    epoch = state.step / session.steps_per_epoch
    entry = {"seed": state.seed, "epoch": epoch, "step": state.step, "kind": "eval", **scores.metrics}
    _record(session, entry)
    figures = ", ".join(f"{translated(spoken(name))} {value:.3f}" for name, value in scores.metrics.items())
    session.log.say(f"seed {state.seed}, epoch {epoch:g}: dev {figures}")
    metric = chosen_metric(session.settings, scores.metrics)
    if state.best_epoch is not None and scores.metrics[metric] <= state.metrics[metric]:
        state.worse += 1
        return
    state.best_epoch, state.metrics, state.worse = epoch, scores.metrics, 0
    state.tuned, state.collapsed = scores.tuned, scores.collapsed
    run.current = {name: tensor.clone() for name, tensor in gathered(model, keep=session.holds_weights).items()}


def score_dev(session: Session, model: nn.Module) -> Scores:
    """Return the scores of a model on the dev rows."""
    data = session.data
    outputs = apply_model(model, data.task, data.dev, data.facts, session.device, session.dtype, session.processes)
    return data.task.score(outputs, data.dev, data.dev_rows, data.facts)


def chosen_metric(settings: FinetuneSettings, metrics: Mapping[str, float]) -> str:
    """Return the dev metric that chooses the best epoch: the user's, or the task's first.

    Raises:
        InputError: these rows have no such figure (entities have F1, plain tags do not).
    """
    name: str | None = settings.metric  # type: ignore[attr-defined]
    if name is not None and name not in metrics:
        raise InputError(f"metric {name!r}: these rows have {', '.join(metrics)}")
    return name or next(iter(metrics))


def _best_metric(session: Session, state: SeedState) -> float:
    return state.metrics[chosen_metric(session.settings, state.metrics)]


def resume_command(settings: FinetuneSettings) -> str:
    """Return the command line that goes on with a run: the settings are in its directory."""
    task: str = settings.task  # type: ignore[attr-defined]
    return f"bertsmith finetune {task} --config {settings.output / 'config.yaml'} --resume"


def _batches(examples: Examples, batch_size: int, seed: int, step: int, processes: Processes) -> Iterator[list[Batch]]:
    """Yield this process's part of the batches from ``step`` on."""
    rows = len(examples.lengths)
    first, skip = divmod(step, math.ceil(rows / batch_size))
    for epoch in itertools.count(first):
        for numbers in epoch_batches(rows, batch_size, seed, epoch)[skip if epoch == first else 0 :]:
            own = np.array_split(numbers, processes.size)[processes.rank]
            # Every process makes every step; one without rows of its own makes it with a row that counts nothing.
            yield [examples.batch(own) if len(own) else replace(examples.batch(numbers[:1]), idle=True)]


def epoch_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the example numbers of an epoch's batches: every example once, in an order of (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [order[start : start + batch_size] for start in range(0, rows, batch_size)]


def _save(session: Session, run: RunState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = gathered(model, keep=session.processes.is_first)
    moments = optimizer_tensors(model, optimizer, keep=session.processes.is_first)
    if not session.processes.is_first:
        return

    def write(directory: Path) -> None:
        state = {"seeds": [asdict(s) for s in run.seeds], "threads": torch.get_num_threads()}
        files.write_json(directory / "state.json", state)
        save_file(weights, directory / "current.safetensors")
        save_file(run.current, directory / "epoch.safetensors")
        save_file(run.best, directory / "best.safetensors")
        save_optimizer(directory, moments)

    done = sum(seed.step for seed in run.seeds)
    # The weights, two moments, and the weights of up to two best epochs.
    needed = 20 * sum(parameter.numel() for parameter in model.parameters())
    output = session.settings.output
    if session.metrics is not None:
        session.metrics.sync()
    session.disk.write(f"the checkpoint of step {done:,}", lambda: save_checkpoint(output, done, write), needed)


def load_run_state(checkpoint: Path, *, weights: bool) -> RunState:
    """Return what :func:`tune` wrote at its last checkpoint, with or without ``weights``."""
    state = files.read_json(checkpoint / "state.json", what="the state of a checkpoint")
    seeds = [SeedState(**seed) for seed in state["seeds"]]
    if not weights:
        return RunState(seeds)
    return RunState(
        seeds,
        load_file(checkpoint / "best.safetensors"),
        load_file(checkpoint / "epoch.safetensors"),
    )
