"""Training steps of ours and of transformers, each in a process of its own, on the same batches in turn."""

from __future__ import annotations

import itertools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.names import to_transformers
from bertsmith.training.device import autocast, set_up_process

CPU = torch.device("cpu")
_LEARNING_RATE = 1e-4
# A round is so many steps that it takes about as long.
_ROUND_SECONDS = 1.0


@dataclass(frozen=True)
class Workload:
    """What is trained on: a model's size and the batches that both sides get.

    Attributes:
        name: for the table.
        layers, width, heads, vocabulary: of the model.
        batch: sequences in a step.
        length: longest sequence.
        fill: mean length of the sequences as a share of the longest; 1: all are as long.
        dropout: of hidden values and of attention weights.
        batches: real ones; made up from the numbers above if there are none.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int = 30_522
    batch: int = 32
    length: int = 128
    fill: float = 0.59
    dropout: float = 0.1
    batches: tuple[Batch, ...] = field(default=(), repr=False)

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return ModelConfig(
            vocab_size=self.vocabulary,
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            num_attention_heads=self.heads,
            intermediate_size=4 * self.width,
            max_position_embeddings=max(512, self.length),
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
        )

    def data(self) -> tuple[Batch, ...]:
        """Return the batches: the real ones, or four of random tokens."""
        return self.batches or tuple(_made_up(self, seed) for seed in range(4))


@dataclass(frozen=True)
class Outcome:
    """What a side did with a workload.

    Attributes:
        tokens_per_second: of each round; real tokens only.
        peak_mb: the largest resident memory of the process so far.
        loss: of the first batch before training, without dropout.
    """

    tokens_per_second: list[float]
    peak_mb: float
    loss: float

    @property
    def median(self) -> float:
        """The median round's tokens per second."""
        return statistics.median(self.tokens_per_second)


def run(
    workload: Workload,
    engines: Sequence[str],
    dtypes: dict[str, torch.dtype],
    rounds: int,
    threads: int,
    after_round: Callable[[], None] = lambda: None,
    device: str = "cpu",
) -> dict[str, Outcome]:
    """Train with each of the ``engines`` (keys of ENGINES) in turn, round by round."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        sides: dict[str, Connection] = {}
        for engine in engines:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(engine, workload, dtypes[engine], threads, there, device))
            process.start()
            stack.callback(process.join)
            stack.callback(here.send, None)
            sides[engine] = here
        losses = {engine: _ask(side, "loss") for engine, side in sides.items()}
        steps = {engine: max(1, round(_ROUND_SECONDS / _ask(side, 1)[1])) for engine, side in sides.items()}
        rates: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(rounds):
            for engine, side in sides.items():
                tokens, seconds = _ask(side, steps[engine])
                rates[engine].append(tokens / seconds)
            after_round()
        return {engine: Outcome(rates[engine], _ask(side, "memory"), losses[engine]) for engine, side in sides.items()}


def _ask(side: Connection, request: object) -> Any:
    side.send(request)
    return side.recv()


def _serve(engine: str, workload: Workload, dtype: torch.dtype, threads: int, parent: Connection, device: str) -> None:
    """Answer "loss", "memory" and numbers of steps (their tokens and seconds) until None comes."""
    if engine == "bertsmith":
        set_up_process(threads)
    elif threads:
        torch.set_num_threads(threads)
    batches = workload.data()
    torch.manual_seed(1)
    step, loss = ENGINES[engine](workload.config, dtype, 0, torch.device(device))
    done = 0
    while (request := parent.recv()) is not None:
        if request == "loss":
            parent.send(loss(batches[0]))
        elif request == "memory":
            parent.send(_peak_mb(torch.device(device)))
        else:
            chosen = [batches[(done + number) % len(batches)] for number in range(request)]
            begun = time.perf_counter()
            for batch in chosen:
                step(batch, _LEARNING_RATE)
            seconds = time.perf_counter() - begun
            done += request
            parent.send((sum(batch.num_tokens for batch in chosen), seconds))


def _peak_mb(device: torch.device) -> float:
    """Return the largest memory of this process so far, in MB: of the GPU where it computes on one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage gives begins, on Linux, with the size of the process that started this one.
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1e3
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / (1e6 if sys.platform == "darwin" else 1e3)


Step = Callable[[Batch, float], float]
"""Makes a step with a learning rate and returns its loss."""

Loss = Callable[[Batch], float]
"""Returns the loss of a batch without dropout."""


def ours(
    config: ModelConfig, dtype: torch.dtype, seed: int, device: torch.device = CPU, compiled: bool = False
) -> tuple[Step, Loss]:
    """Return the steps of `bertsmith pretrain`; ``seed`` is that of dropout."""
    from bertsmith.config import OptimizerSettings
    from bertsmith.training.loop import Objective, accumulate_gradients
    from bertsmith.training.optimizer import apply_gradients, make_optimizer

    model = PretrainingModel(config)
    if compiled:
        model.bert.compile_layers()
    model.to(device)
    optimizer = make_optimizer(model, OptimizerSettings())
    objective = Objective(_counts, _sums)
    numbers = itertools.count()

    def step(batch: Batch, learning_rate: float) -> float:
        model.train()
        losses = accumulate_gradients(model, [batch], objective, next(numbers), device, dtype, seed)
        apply_gradients(model, optimizer, learning_rate, 1.0)
        return sum(losses.values())

    @torch.no_grad()
    def loss(batch: Batch) -> float:
        model.eval()
        with autocast(dtype, device):
            sums = _sums(model, batch.to(device))
        return sum(float(sums[name]) / count for name, count in _counts(batch).items())

    return step, loss


def _counts(batch: Batch) -> dict[str, int]:
    assert batch.masked_positions is not None
    return {"mlm_loss": len(batch.masked_positions), "nsp_loss": batch.num_sequences}


def _sums(model: Any, batch: Batch) -> dict[str, Tensor]:
    losses = model.losses(batch)
    return {"mlm_loss": losses.mlm, "nsp_loss": losses.nsp}


def theirs(config: ModelConfig, dtype: torch.dtype, seed: int, device: torch.device = CPU) -> tuple[Step, Loss]:
    """Return what Trainer does in a step, without its bookkeeping: padding, all logits, clipping, fused AdamW."""
    return loop_of(their_model(config).to(device), dtype, seed)


def their_model(config: ModelConfig) -> Any:
    """Return transformers' model with the random start that ours would have."""
    import transformers

    transformers.logging.set_verbosity_error()
    reference = PretrainingModel(config)
    names = set(config.model_dump()) & set(transformers.BertConfig().to_dict())
    model = transformers.BertForPreTraining(
        transformers.BertConfig(**{name: value for name, value in config.model_dump().items() if name in names})
    )
    missing, unknown = model.load_state_dict(
        to_transformers(reference.state_dict(), config.num_hidden_layers), strict=False
    )
    assert not unknown
    assert all("decoder" in name or "position_ids" in name for name in missing), missing
    model.tie_weights()
    return model


def loop_of(model: Any, dtype: torch.dtype, seed: int) -> tuple[Step, Loss]:
    """Return a step of transformers' model, and its loss."""
    optimizer = torch.optim.AdamW(_decayed(model), lr=0.0, betas=(0.9, 0.999), eps=1e-6, fused=True)
    torch.manual_seed(seed)
    device = model.device
    seen: list[tuple[Batch, dict[str, Tensor]]] = []

    def padded(batch: Batch) -> dict[str, Tensor]:
        """Pad a batch the first time: Trainer's workers do that ahead of the steps."""
        for known, inputs in seen:
            if known is batch:
                return inputs
        seen.append((batch, _padded(batch)))
        del seen[:-8]
        return seen[-1][1]

    def forward(batch: Batch) -> Tensor:
        inputs = {name: values.to(device) for name, values in padded(batch).items()}
        with autocast(dtype, device):
            output: Tensor = model(**inputs).loss
        return output

    def step(batch: Batch, learning_rate: float) -> float:
        model.train()
        found = forward(batch)
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
        return float(found.detach())

    @torch.no_grad()
    def loss(batch: Batch) -> float:
        model.eval()
        return float(forward(batch))

    return step, loss


def _decayed(model: Any) -> list[dict[str, Any]]:
    """Return the groups that Trainer makes: no decay of biases and layer norms."""
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": vectors, "weight_decay": 0.0},
    ]


SIDES = ("bertsmith", "transformers")
ENGINES: dict[str, Callable[..., tuple[Step, Loss]]] = {
    "bertsmith": ours,
    "transformers": theirs,
    "bertsmith compiled": partial(ours, compiled=True),
}


def _padded(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as transformers' data collators give it: padded to the longest, -100 where nothing is asked."""
    from finetuning import pad  # only in their process: it would count towards our memory

    assert batch.masked_positions is not None
    assert batch.masked_labels is not None
    assert batch.labels is not None
    labels = torch.full((batch.num_tokens,), -100)
    labels[batch.masked_positions] = batch.masked_labels
    return pad(replace(batch, labels=labels)) | {"next_sentence_label": batch.labels}


def _made_up(workload: Workload, seed: int) -> Batch:
    """Return a batch of random tokens, 15 % of them asked for, whose lengths have the workload's mean."""
    rng = np.random.default_rng(seed)
    shortest = round(workload.length * (2 * workload.fill - 1))
    lengths = rng.integers(max(4, shortest), workload.length + 1, workload.batch)
    lengths[0] = workload.length
    ids = [rng.integers(5, workload.vocabulary, length) for length in lengths]
    segments = [np.repeat([0, 1], [length // 2, length - length // 2]) for length in lengths]
    batch = pack(ids, segments, rng.integers(0, 2, workload.batch).tolist())
    chosen = np.sort(rng.choice(batch.num_tokens, max(1, round(0.15 * batch.num_tokens)), replace=False))
    positions = torch.from_numpy(chosen)
    masked = batch.token_ids.clone()
    masked[positions] = 4
    return Batch(
        masked,
        batch.segment_ids,
        batch.position_ids,
        batch.sequence_starts,
        batch.max_length,
        positions,
        batch.token_ids[positions],
        batch.labels,
    )
