"""A start from which a model predicts a token by its neighbours.

Trained BERTs have heads in their lower layers that look at the token before or after (Clark et al. 2019, section 3.1).
A small model spends most of a short run finding them, and until then knows frequencies and little more. Here they are
there from the first step: heads look at neighbours and hand on what stands there, and the output layer compares the sum
with every token's embedding. Where the embeddings come from counts of neighbours, that is already a prediction, the one
of a continuous bag of words (Mikolov et al. 2013).

Only initial values are set, as Trockman and Kolter (2023) do for other patterns of attention; the architecture is
BERT's, and every weight is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bertsmith.model.bert import Bert, Layer
from bertsmith.model.heads import MaskedLanguageHead

# What a query meets at the place it looks for, as an exponent; elsewhere it is about 0.
_SCORE = 6.0
# How much of what a head sees is added to the token's own vector.
_HANDED_ON = 0.5
# Random weights beside those that are set are made smaller, so that they do not drown them.
_REST = 0.3
# gelu(x + 3) is almost x + 3, and the layer norm after it takes the 3 away again: the transform begins as the identity.
_STRAIGHT = 3.0
# The strength of the output layer's vectors; logits begin about as far apart as counts say.
_LOGITS = 2.0


def look_at_neighbours(bert: Bert, offsets: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
    """Let the first heads of the first layers look at tokens at fixed distances and hand on what they see, in place.

    Positions become waves of H / A / 2 frequencies, in as many pairs of the last columns; the other columns of their
    embeddings are 0. Turning a position's waves by an angle each makes them those of a position some places further,
    so a query that turns them meets its key there. The frequencies are spread at random, so that no two positions are
    alike however long a sequence is.

    Args:
        bert: with its random start.
        offsets: for each layer from the first, the distances of its first heads: -1 the token before, 1 the one after.
            Layers and heads that the model does not have are left out.
        rng: draws the frequencies.
    """
    size = bert.config.hidden_size // bert.config.num_attention_heads
    pairs = size // 2
    if not pairs:
        return
    frequencies = torch.from_numpy(math.pi * (np.arange(pairs) + rng.random(pairs)) / pairs)
    with torch.no_grad():
        _make_waves(bert.embeddings.position.weight, frequencies, bert.config.initializer_range)
        for layer, distances in zip(bert.layers, offsets, strict=False):
            assert isinstance(layer, Layer)
            for head, distance in enumerate(distances[: layer.num_heads]):
                _look_away(layer, head, size, distance, frequencies)
                _hand_on(layer, head, size)


def compare_with_embeddings(head: MaskedLanguageHead) -> None:
    """Let the output layer take the encoder's vectors as they are, in place."""
    with torch.no_grad():
        head.transform.weight.mul_(_REST).add_(torch.eye(len(head.transform.weight)))
        head.transform.bias.fill_(_STRAIGHT)
        head.norm.weight.fill_(_LOGITS)


def _make_waves(positions: Tensor, frequencies: Tensor, deviation: float) -> None:
    """Fill (P, H) position embeddings with waves in their last columns, as strong in all as random ones would be."""
    waves = 2 * len(frequencies)
    angles = torch.arange(len(positions))[:, None] * frequencies
    strength = deviation * math.sqrt(2 * positions.shape[1] / waves)
    positions.zero_()
    positions[:, -waves:] = strength * torch.cat([angles.cos(), angles.sin()], 1).float()


def _look_away(layer: Layer, head: int, size: int, distance: int, frequencies: Tensor) -> None:
    """Set one head's query and key so that token i meets token i + ``distance``."""
    waves, width = 2 * len(frequencies), layer.num_heads * size
    # Positions are a third of what the first layer norm gives: as much as the tokens and the segments.
    gain = math.sqrt(_SCORE * math.sqrt(size) / (width / 3))
    cosines, sines = (distance * frequencies).cos().float(), (distance * frequencies).sin().float()
    turned = torch.cat(
        [torch.cat([cosines.diag(), -sines.diag()], 1), torch.cat([sines.diag(), cosines.diag()], 1)]
    )  # (waves, waves): the waves of i to those of i + distance
    query, key, _ = _projections(layer, head, size)
    for weights, wanted in ((query, turned), (key, torch.eye(waves))):
        weights.mul_(_REST)
        weights[:waves, -waves:] = gain * wanted


def _hand_on(layer: Layer, head: int, size: int) -> None:
    """Let one head add the first columns of what it sees, where counted embeddings tell most, to the same columns."""
    value = _projections(layer, head, size)[2]
    output = layer.attention_output.weight[:, head * size : (head + 1) * size]
    kept = math.sqrt(_HANDED_ON) * torch.eye(size)
    value.mul_(_REST)[:, :size] += kept
    output.mul_(_REST)[:size] += kept


def _projections(layer: Layer, head: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights (H / A, H) of one head's query, key and value, as views."""
    query, key, value = layer.query_key_value.weight.view(3, layer.num_heads, size, -1)[:, head]
    return query, key, value
