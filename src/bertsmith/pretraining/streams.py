"""Random streams: one for each purpose and place, so that none repeats another and each can be had at once."""

from __future__ import annotations

import numpy as np

ORDER, PLAN, MASKS, HELD_OUT, EVALUATION, EVALUATION_MASKS, EMBEDDINGS, FREQUENCIES, SHARDS = range(1, 10)
"""Purposes."""


def stream(seed: int, purpose: int, *place: int) -> np.random.Generator:
    """Return the generator of a purpose (as above) at a place (epoch, step, ...); its numbers can be skipped."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(purpose, *place))))
