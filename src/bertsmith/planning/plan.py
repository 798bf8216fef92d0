"""A plan: settings in, figures out; nothing is read or measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bertsmith.plan_config import PlanSettings
from bertsmith.planning.memory import FLOAT32, Memory, memory, parameters
from bertsmith.planning.operations import StepShape, operations

# Bytes of a store beside a token's id: the offset of a sentence of about 25 tokens, and a little of its document.
_BESIDE_AN_ID = 4 / 25 + 0.05
# Bytes that an entry of the vocabulary takes in tokenizer.json and vocab.txt together.
_ENTRY = 32
# A run keeps two checkpoints and writes a third before it deletes one.
_CHECKPOINTS = 3
# Bytes of a step in metrics.jsonl; of runs of 40 steps 278, and long ones have more digits.
_LOGGED_STEP = 290


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
        parameters: of encoder and both heads.
        steps: updates of the weights.
        tokens_per_step: real ones, over all devices.
        operations: floating point operations of the whole run, those that cannot be left out.
        seconds: of training; start, evaluations and checkpoints come on top.
        tokens_per_second: over all devices.
        micro_batch: sequences that a device holds at a time, at most.
        memory: bytes on one device.
        most_sequences: how many sequences at a time fit into ``device_memory``, at most a device's share of the batch;
            None if that was not given, 0 if not even one fits.
        checkpoint: bytes of one checkpoint: weights and AdamW's moments.
        run: bytes of the run's directory at most.
        store: bytes of the token store.
        cost: over all devices, in the price's currency; None without a price.
    """

    parameters: int
    steps: int
    tokens_per_step: float
    operations: float
    seconds: float
    tokens_per_second: float
    micro_batch: int
    memory: Memory
    most_sequences: int | None
    checkpoint: float
    run: float
    store: float
    cost: float | None


def plan(settings: PlanSettings) -> Plan:
    """Return what a pre-training run with ``settings`` takes.

    Raises:
        InputError: the model's numbers do not go together (the width is no multiple of the heads).
    """
    config = settings.encoder
    whole = step_shape(settings, settings.batch_size)
    steps = math.ceil(settings.tokens / whole.tokens)
    work = operations(config, whole)
    step_seconds = work / (settings.devices * settings.device_tflops * 1e12 * settings.mfu)
    share = settings.batch_size // settings.devices
    micro_batch = _largest_part(share, settings.micro_batch_size or share)
    size = parameters(config)
    checkpoint = 3 * FLOAT32 * size + _ENTRY * settings.vocab_size
    weights = FLOAT32 * size + _ENTRY * settings.vocab_size
    seconds = steps * step_seconds
    price = settings.price_per_hour
    return Plan(
        parameters=size,
        steps=steps,
        tokens_per_step=whole.tokens,
        operations=steps * work,
        seconds=seconds,
        tokens_per_second=whole.tokens / step_seconds,
        micro_batch=micro_batch,
        memory=_memory(settings, micro_batch),
        most_sequences=None if settings.device_memory is None else _most_sequences(settings, share),
        checkpoint=checkpoint,
        # Beside checkpoints the best weights and the final ones, and a line a step.
        run=_CHECKPOINTS * checkpoint + 2 * weights + _LOGGED_STEP * steps,
        store=settings.tokens / settings.epochs * ((2 if settings.vocab_size <= 65_535 else 4) + _BESIDE_AN_ID),
        cost=None if price is None else price * settings.devices * seconds / 3600,
    )


def step_shape(settings: PlanSettings, sequences: float) -> StepShape:
    """Return the shape of so many sequences of the mean length."""
    length = settings.max_length * settings.fill
    tokens = sequences * length
    return StepShape(tokens, sequences, settings.mask_share * tokens, tokens * length)


def _largest_part(share: int, at_most: int) -> int:
    """Return how many sequences a device holds at a time: its share is cut into parts that are as equal as can be."""
    parts = -(-share // at_most)
    return -(-share // parts)


def _memory(settings: PlanSettings, micro_batch: int) -> Memory:
    return memory(
        settings.encoder,
        step_shape(settings, micro_batch),
        settings.precision,
        settings.on,
        # Several processes add their gradients up in memory that stays.
        accumulates=micro_batch < settings.batch_size,
    )


def _most_sequences(settings: PlanSettings, share: int) -> int:
    room = (settings.device_memory or 0.0) * 1e9
    # A whole batch needs no second set of gradients, so it may fit where a part of it does not.
    if _memory(settings, share).peak <= room:
        return share
    fits, too_many = 0, share
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _memory(settings, middle).peak <= room:
            fits = middle
        else:
            too_many = middle
    return fits
