"""What one session of a pre-training run works with: made anew, or from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch
from bertsmith.config import PAPER_MASK_SHARE, ModelConfig, PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import DivergedError, InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import load_pretraining_model, save_model, write_model
from bertsmith.pretraining.heldout import evaluation_batches, held_out_documents, of_few_shards
from bertsmith.pretraining.masking import Masking
from bertsmith.pretraining.sampler import Sampler
from bertsmith.pretraining.statistics import COUNTED_TOKENS
from bertsmith.pretraining.streams import SHARDS, stream
from bertsmith.text.store import TokenStore
from bertsmith.training.checkpoint import load_optimizer, optimizer_tensors, save_checkpoint, save_optimizer
from bertsmith.training.device import pick_device, pick_precision
from bertsmith.training.disk import Disk
from bertsmith.training.evaluate import unigram_entropy
from bertsmith.training.initial import initial_model, model_config, peak_rate
from bertsmith.training.loop import Objective, Progress
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.processes import Processes
from bertsmith.training.schedule import Schedule, fixed
from bertsmith.training.sharding import fill, gathered, is_sharded, is_wanted, shard

Record = Callable[[dict[str, Any]], None]
"""Writes an entry of metrics.jsonl; in all processes but the first it does nothing."""


@dataclass
class Session:
    """All that one session of a run works with, in one of its processes.

    Attributes:
        settings, store, sampler, model, optimizer, progress: what is trained on what, and how far it is.
        held_out: this process's share of the evaluation, and which of its batches count.
        shown: the first batch of the evaluation, whose blanks are shown.
        unigram: the loss of knowing only frequencies (nats).
        device, dtype: where, and in which arithmetic.
        processes: who else works on it.
        disk: what is written goes through it.
        log: what is said goes here.
    """

    settings: PretrainSettings
    store: TokenStore
    sampler: Sampler
    model: PretrainingModel
    optimizer: torch.optim.Optimizer
    progress: Progress
    held_out: list[tuple[Batch, bool]]
    shown: Batch
    unigram: float
    device: torch.device
    dtype: torch.dtype
    processes: Processes
    disk: Disk
    log: Log

    def micro_batches(self, step: int) -> list[Batch]:
        """Return this process's pieces of a step (from 0)."""
        return pieces_of_step(self.settings, self.sampler, self.processes, step + self.progress.offset)

    @property
    def extras(self) -> dict[str, Any]:
        """What config.json says beside the model's numbers."""
        return {"task": "pretraining", "max_length": self.settings.max_length}

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint, roughly: weights and two moments in float32."""
        return 12 * sum(parameter.numel() for parameter in self.model.parameters())

    def save_checkpoint(self) -> None:
        """Write a checkpoint, in the first process; every process must ask.

        Raises:
            DivergedError: weights are no numbers; the checkpoints from before stay.
        """
        self.refuse_bad_weights()
        model = self._whole_model()
        moments = optimizer_tensors(self.model, self.optimizer, keep=self.processes.is_first)
        if model is not None:
            step = self.progress.step
            self.disk.write(
                f"the checkpoint of step {step:,}",
                lambda: save_checkpoint(
                    self.settings.output, step, lambda directory: self._write(directory, model, moments)
                ),
                self.checkpoint_bytes,
            )
        # Nobody leaves before it is whole: an engine ends the processes that are left soon after the first one.
        self.processes.any(False)

    def save_model(self, name: str) -> Path:
        """Write the weights as a model directory of the run, in the first process; return its path; all must ask.

        Raises:
            DivergedError: weights are no numbers.
        """
        self.refuse_bad_weights()
        path, model = self.settings.output / name, self._whole_model()
        if model is not None:
            self.disk.write(
                f"the model {path}",
                lambda: save_model(model, path, self.store.tokenizer, extras=self.extras),
                self.checkpoint_bytes // 3,
            )
        self.processes.any(False)
        return path

    def refuse_bad_weights(self) -> None:
        """Refuse weights that are no numbers, which would push out a good checkpoint; every process must ask.

        Raises:
            DivergedError: there are some.
        """
        own = (getattr(parameter, "to_local", parameter.detach)() for parameter in self.model.parameters())
        if self.processes.any(not all(bool(torch.isfinite(part).all()) for part in own)):
            raise DivergedError(
                f"after step {self.progress.step:,} the weights are no numbers any more; what was saved before is "
                "whole. Try a new run with a lower --learning-rate or a longer --warmup"
            )

    def _whole_model(self) -> PretrainingModel | None:
        """Return a model with all weights in the first process, and None in the others."""
        if not is_sharded(self.model):
            return self.model if self.processes.is_first else None
        weights = gathered(self.model, keep=self.processes.is_first)
        return with_weights(self.model.config, weights) if self.processes.is_first else None

    def go_back(self, checkpoint: Path) -> None:
        """Take weights, moments and progress from an earlier checkpoint; the batches made since then are left out."""
        step = self.progress.step
        state = files.read_json(checkpoint / "state.json", what="the state of a checkpoint")
        # Of a sharded model only the first process's weights are looked at.
        reads = self.processes.is_first or not is_sharded(self.model)
        fill(self.model, load_pretraining_model(checkpoint).state_dict() if reads else {})
        load_optimizer(checkpoint, self.model, self.optimizer)
        seconds, schedule, returns = self.progress.seconds, self.progress.schedule, self.progress.returns
        self.progress = progress_from(state["progress"])
        self.progress.returns = returns + 1
        # The clock has gone on, and with it what a budget knows about this machine's speed.
        self.progress.seconds, self.progress.schedule = seconds, schedule
        self.progress.offset += step - self.progress.step

    def _write(self, directory: Path, model: PretrainingModel, moments: dict[str, Tensor]) -> None:
        write_model(model, directory, self.store.tokenizer, extras=self.extras)
        save_optimizer(directory, moments)
        state = {
            "progress": asdict(self.progress),
            "precision": str(self.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "processes": self.processes.size,
            "store": self.store.manifest["fingerprint"],
        }
        # Infinity is not JSON; a run without an evaluation has no best loss yet.
        state["progress"]["best"] = None if math.isinf(self.progress.best) else self.progress.best
        files.write_json(directory / "state.json", state)


def start(
    settings: PretrainSettings,
    store: TokenStore,
    checkpoint: Path | None,
    processes: Processes,
    stopped: Callable[[], bool],
    log: Log,
) -> Session:
    """Begin a run, or go on from its checkpoint.

    Raises:
        InputError: the store is not the run's, has too little text, or the checkpoint cannot be read.
    """
    device = pick_device(settings.device)
    training_documents, held_out = held_out_documents(store, settings.held_out, settings.seed)
    sampler = make_sampler(settings, store, training_documents)
    counted = training_documents
    if settings.shuffle_shards is not None:
        rng = stream(settings.seed, SHARDS)
        held_out = of_few_shards(store, held_out, 4 * settings.eval_instances * settings.max_length, rng)
        counted = of_few_shards(store, training_documents, COUNTED_TOKENS, rng)
    batches = evaluation_batches(
        store,
        held_out,
        max_length=settings.max_length,
        instances=settings.eval_instances,
        seed=settings.seed,
        short_probability=settings.short_probability,
        # One share for all: losses of runs that are trained with others can be compared.
        masking=replace(_masking(settings), share=PAPER_MASK_SHARE),
    )
    sharded = is_wanted(settings, processes)
    if sharded and not processes.is_first:
        model = empty_model(model_config(settings, store.vocab_size))
    elif checkpoint is None:
        model = initial_model(settings, store, counted, log)
    else:
        model = load_pretraining_model(checkpoint)
    if settings.compile:
        model.bert.compile_layers()
    model = shard(model, device, processes) if sharded else model.to(device)
    optimizer = make_optimizer(model, settings)
    if checkpoint is None:
        dtype = pick_precision(settings.precision, device, model.config.hidden_size)
        progress = Progress(fixed(peak_rate(settings), settings.warmup, _planned_steps(settings, sampler)))
    else:
        state = files.read_json(checkpoint / "state.json", what="the state of a checkpoint")
        if state["store"] != store.manifest["fingerprint"]:
            raise InputError("is not the store that this run was started with", path=settings.store)
        load_optimizer(checkpoint, model, optimizer)
        dtype = getattr(torch, state["precision"])
        progress = progress_from(state["progress"])
        now = {"threads": torch.get_num_threads(), "processes": processes.size}
        for what, number in now.items():
            if state.get(what, number) != number:
                log.warn(
                    f"the run had {state[what]} {what} and now has {number}: "
                    "sums are added in another order, so the last digits may differ"
                )
    return Session(
        settings=settings,
        store=store,
        sampler=sampler,
        model=model,
        optimizer=optimizer,
        progress=progress,
        held_out=processes.dealt(batches, evenly=sharded),
        shown=batches[0],
        unigram=unigram_entropy(store.token_counts, batches),
        device=device,
        # Each process times its own arithmetic; all must do the same.
        dtype=processes.share(dtype),
        processes=processes,
        disk=Disk(settings.output, log, settings.when_full == "wait", stopped),
        log=log,
    )


def check_parts(settings: PretrainSettings, processes: Processes) -> None:
    """Refuse batches that do not give each process, or each micro-batch, a sequence.

    Raises:
        InputError: they do not.
    """
    if settings.batch_size < processes.size:
        raise InputError(f"batch_size {settings.batch_size}: each of {processes.size} processes needs a sequence")
    size, parts = settings.micro_batch_size, _parts_of_step(settings, processes)
    if parts > settings.batch_size:
        raise InputError(
            f"batch_size {settings.batch_size}: {processes.size} processes with micro_batch_size {size} would cut a "
            f"step into {parts} parts; raise batch_size or micro_batch_size"
        )


def make_sampler(settings: PretrainSettings, store: TokenStore, documents: np.ndarray) -> Sampler:
    """Return what makes the steps' batches from ``documents``, (D,) int64."""
    return Sampler(
        store,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
        seed=settings.seed,
        documents=documents,
        short_probability=settings.short_probability,
        masking=_masking(settings),
        shuffle_shards=settings.shuffle_shards,
    )


def pieces_of_step(settings: PretrainSettings, sampler: Sampler, processes: Processes, step: int) -> list[Batch]:
    """Return this process's micro-batches of a step."""
    parts = _parts_of_step(settings, processes)
    return [sampler.batch(step, part, parts) for part in processes.own(parts)]


def _parts_of_step(settings: PretrainSettings, processes: Processes) -> int:
    size = settings.micro_batch_size
    return processes.parts(math.ceil(settings.batch_size / size) if size else 1)


def empty_model(config: ModelConfig) -> PretrainingModel:
    """Return a model without numbers: shapes alone."""
    with torch.device("meta"):
        return PretrainingModel(config)


def with_weights(config: ModelConfig, weights: dict[str, Tensor]) -> PretrainingModel:
    """Return a model that consists of these tensors."""
    model = empty_model(config)
    model.load_state_dict(weights, assign=True)
    return model


def objective(next_sentence: bool) -> Objective:
    """Return what a step minimises: the masked-language-model loss, and that of next sentences if they are asked."""

    def counts(batch: Batch) -> dict[str, int]:
        assert batch.masked_positions is not None
        masked = {"mlm_loss": len(batch.masked_positions)}
        return masked | {"nsp_loss": batch.num_sequences} if next_sentence else masked

    def sums(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, PretrainingModel)
        losses = model.losses(batch)
        return {"mlm_loss": losses.mlm, "nsp_loss": losses.nsp} if next_sentence else {"mlm_loss": losses.mlm}

    return Objective(counts, sums)


def progress_from(state: dict[str, Any]) -> Progress:
    """Return the progress that a checkpoint's state.json holds."""
    schedule = state["schedule"]
    segments = tuple((int(a), float(b), int(c)) for a, b, c in schedule["segments"])
    best = math.inf if state["best"] is None else float(state["best"])
    return Progress(**state | {"schedule": Schedule(schedule["peak"], schedule["warmup"], segments), "best": best})


def _masking(settings: PretrainSettings) -> Masking:
    masked, _, random = (int(percent) / 100 for percent in settings.mask_mix.split("/"))
    unit = "next" if settings.direction == "left-to-right" else settings.masking
    return Masking(unit, settings.mask_share, masked, random)


def _planned_steps(settings: PretrainSettings, sampler: Sampler) -> int:
    """Return the number of steps; for a budget a first guess that is replaced once the speed is known."""
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil(float(settings.epochs or 1) * sampler.steps_per_epoch))
