"""Which of the named sizes learns most from the tokens that there is time for (measured: docs/recipe.md)."""

from __future__ import annotations

import math

from bertsmith.config import SIZES

TOKENS_PER_WEIGHT = {"tiny": 0.0, "mini": 4.0, "small": 10.0, "medium": 10.0}
"""A size is worth its slower steps once it sees so many tokens of new text for each weight of its layers.

Smallest first, and no larger ones than were measured. The rates of tiny and small were not yet those of their width
then: with them tiny is a little better (4.129 for 4.147 in 5 minutes), small too (4.236 for 4.360 in 20).
"""

# Passes over new text that any number of repeated ones is worth: fitted to runs of up to 15 passes.
_PASSES = 14.0


def worth(tokens: float, text_tokens: float) -> float:
    """Return how many tokens of new text would teach as much as ``tokens`` from a text of ``text_tokens``.

    Each pass is worth a little less than the one before it; the form is that of Muennighoff et al. 2023
    (arXiv:2305.16264, section 3.1).
    """
    repeated = max(0.0, tokens / text_tokens - 1)
    return min(tokens, text_tokens) - _PASSES * text_tokens * math.expm1(-repeated / _PASSES)


def weights_of_layers(size: str) -> int:
    """Return the weights in the layers' matrices of a named size; embeddings do not count."""
    layers, width, _ = SIZES[size]
    return 12 * layers * width**2


def is_worth_it(size: str, tokens: float, text_tokens: float) -> bool:
    """Return whether ``tokens`` from a text of ``text_tokens`` are enough for a named size."""
    return worth(tokens, text_tokens) >= TOKENS_PER_WEIGHT[size] * weights_of_layers(size)
