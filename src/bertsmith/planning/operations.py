"""How many floating point operations a pre-training step cannot do without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bertsmith.config import ModelConfig

if TYPE_CHECKING:
    from bertsmith.batch import Batch


@dataclass(frozen=True)
class StepShape:
    """What of a step decides its work and its memory; means over steps may be broken numbers.

    Attributes:
        tokens: real ones (T).
        sequences: N.
        masked: tokens to predict (M).
        squares: summed squares of the sequences' lengths.
    """

    tokens: float
    sequences: float
    masked: float
    squares: float


def shape_of(batch: Batch) -> StepShape:
    """Return a batch's shape."""
    masked = 0 if batch.masked_positions is None else len(batch.masked_positions)
    squares = float(batch.sequence_starts.diff().double().square().sum())
    return StepShape(batch.num_tokens, batch.num_sequences, masked, squares)


def operations(config: ModelConfig, step: StepShape) -> float:
    """Return the floating point operations of a step's matrix products that cannot be left out, gradients included."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = 4 * width * step.squares
    projections, rest = 2 * 3 * width**2, 2 * (width**2 + 2 * width * inner)
    layers = config.num_hidden_layers * (attention + step.tokens * projections) + rest * (
        # The last layer's other tokens are not looked at.
        step.tokens * (config.num_hidden_layers - 1) + step.masked + step.sequences
    )
    heads = 2 * (step.masked * (width**2 + width * config.vocab_size) + step.sequences * width**2)
    return 3 * (layers + heads)
