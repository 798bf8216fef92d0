"""Steps that would spoil a run: a loss or gradient that is no number, a loss that jumps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

HISTORY = 100
"""Steps whose losses a jump is measured against."""

TOO_MANY = 10
"""Bad steps in a row after which a run has no hope."""

# Fewer losses say too little about what is usual.
_LEAST = 20
# Near zero a loss doubles by chance.
_LEAST_RISE = 1.0


def refusal(loss: float, grad_norm: float, recent: Sequence[float], spike: float | None) -> str | None:
    """Return why a step must not change the weights, or None where it may.

    Args:
        loss: the step's (nats).
        grad_norm: its gradient's global norm before clipping.
        recent: the losses of the last good steps.
        spike: a loss above so many times their median (and a nat above it) is a jump; None looks at no jumps.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the gradient's norm is {grad_norm}"
    if spike is None or len(recent) < _LEAST:
        return None
    usual = statistics.median(recent)
    if loss <= max(spike * usual, usual + _LEAST_RISE):
        return None
    return f"the loss is {loss:.3f}, but {usual:.3f} in the median of the last {len(recent)} steps"
