"""How many bytes a pre-training step holds, counted from what the model's layers keep for the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bertsmith.config import ModelConfig
from bertsmith.planning.operations import StepShape

FLOAT32 = 4
# Logits are made in pieces of about 2^23 numbers (model/vocabulary_loss.py).
_PIECE = 2**23
# What a process holds before it has a model: Python, torch and its libraries; on a GPU the driver's context (a guess).
_PROCESS = {"cpu": 340e6, "gpu": 500e6}
# How much a heap is larger than what is in it, with a library's copies of operands in its own layout. Fitted to runs
# on a CPU (benchmarks/planning.py); in bfloat16 its gaps are as large as the weights in that type, which are counted
# but not made where the compiled products do a layer's work. Not measured on a GPU.
_HEAP = {("cpu", "float32"): 1.08, ("cpu", "bfloat16"): 1.0, ("gpu", "float32"): 1.0, ("gpu", "bfloat16"): 1.0}

Precision = Literal["bfloat16", "float32"]
Kind = Literal["gpu", "cpu"]


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: float32, all parameters.
        gradients: float32, when all are there.
        optimizer: float32, AdamW's two moments.
        activations: what the forward pass keeps for the backward pass, at its end; with bfloat16 also the layers'
            weights in that type.
        workspace: the gradient of the vocabulary projection, which is made along with the loss, and the more of what
            else the loss holds (pieces of the logits) and what the backward pass of a layer does.
        process: held without any model.
        peak: the most at one time, gaps of the heap included. Activations go while gradients come, so with one
            micro-batch it is less than the sum.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    workspace: float
    process: float
    peak: float


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters of encoder, pooler and both heads; the vocabulary's weights count once."""
    width = config.hidden_size
    embeddings = width * (config.vocab_size + config.max_position_embeddings + config.type_vocab_size + 2)
    layers = config.num_hidden_layers * (layer_weights(config) + _layer_vectors(config))
    pooler, transform = width**2 + width, width**2 + 3 * width
    return embeddings + layers + pooler + transform + config.vocab_size + 2 * width + 2


def layer_weights(config: ModelConfig) -> int:
    """Return the numbers in a layer's matrices."""
    return 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size


def _layer_vectors(config: ModelConfig) -> int:
    return 9 * config.hidden_size + config.intermediate_size


def activations(config: ModelConfig, step: StepShape, precision: Precision, kind: Kind) -> float:
    """Return the bytes that one micro-batch's forward pass keeps.

    Under autocast matrix products take and give bfloat16, layer norms float32; what is kept is counted in its type.
    """
    short = 2 if precision == "bfloat16" else FLOAT32
    width, inner = config.hidden_size, config.intermediate_size
    # A byte a value, after attention and feed-forward network; compiled kernels draw the bits again instead.
    masks = 2 if config.hidden_dropout_prob and kind == "gpu" else 0
    # To the end of attention: the input of the projections, these, the output and a sum a head.
    seen = short * (width + 3 * width + width) + FLOAT32 * config.num_attention_heads
    if kind == "gpu":
        seen += short * width  # the output a second time, in rectangles
    # After it: two sums before layer norms with two figures each, the feed-forward network's input, inside, and inside
    # after the activation.
    after = FLOAT32 * (2 * width + 4) + short * (width + 2 * inner) + masks * width
    if kind == "cpu" and short < FLOAT32:
        after += short * 2 * width  # the kernels keep what is added to the residual beside the sum
    looked_at = step.masked + step.sequences
    layers = config.num_hidden_layers * step.tokens * seen
    layers += ((config.num_hidden_layers - 1) * step.tokens + looked_at) * after
    embeddings = step.tokens * (FLOAT32 * (width + 2) + 4 * 8 + (masks and width))
    head = step.masked * width * (3 * short + 2 * FLOAT32) + step.sequences * width * 2 * FLOAT32
    copies = short * (config.num_hidden_layers * layer_weights(config) + 2 * width**2) if short < FLOAT32 else 0
    return layers + embeddings + head + copies


def memory(config: ModelConfig, step: StepShape, precision: Precision, kind: Kind, accumulates: bool) -> Memory:
    """Return what one device needs.

    Args:
        config: the model.
        step: a micro-batch.
        precision: of the matrix products.
        kind: of device.
        accumulates: gradients of earlier micro-batches are there while a later one's activations are made.
    """
    weights = FLOAT32 * parameters(config)
    kept = activations(config, step, precision, kind)
    vocabulary = FLOAT32 * config.vocab_size * config.hidden_size
    pieces = math.ceil(step.masked * config.vocab_size / _PIECE)
    piece = step.masked * config.vocab_size / pieces * FLOAT32
    # A piece is let go when the next one is there; with bfloat16 it was made in that type first.
    loss = piece * min(2, pieces) + (0 if precision == "float32" else piece + vocabulary / 2)
    # The gradients inside a feed-forward network, before and after the activation, and those of two sums.
    layer = FLOAT32 * step.tokens * (2 * config.intermediate_size + 2 * config.hidden_size)
    earlier = weights if accumulates else 0
    forwards = 3 * weights + earlier + kept + vocabulary + max(loss, layer)
    # At the end the embeddings' own gradient stands beside the projection's, to which it is added.
    backwards = 4 * weights + 2 * vocabulary
    process = _PROCESS[kind]
    peak = process + _HEAP[kind, precision] * max(forwards, backwards)
    return Memory(weights, weights, 2 * weights, kept, vocabulary + max(loss, layer), process, peak)
