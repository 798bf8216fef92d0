"""Learning rates of fine-tuning that suit an encoder's width (docs/recipe.md says what was measured)."""

from __future__ import annotations

# The paper's (appendix A.3); narrow encoders, hidden_size up to the number, learn too slowly with them.
_WIDE = (5e-5, 2e-5, 1e-4)
_NARROW = {256: (3e-4, 1e-4, 1e-3), 512: (1e-4, 3e-4, 5e-5)}


def tuning_rates(hidden_size: int) -> tuple[float, float, float]:
    """Return the usual peak learning rate for an encoder of this width, and two others that are worth a try."""
    return next((rates for width, rates in _NARROW.items() if hidden_size <= width), _WIDE)
