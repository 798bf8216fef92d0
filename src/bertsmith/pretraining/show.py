"""Instances as a person would want to check them."""

from __future__ import annotations

import numpy as np

from bertsmith.pretraining.pairs import Instance
from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.tokenizer import Tokenizer


def format_instances(sampler: Sampler, tokenizer: Tokenizer, count: int = 3, step: int = 0) -> str:
    """Return the first instances of a step as text, as :func:`format_instance` writes them."""
    batch = sampler.batch(step)
    assert batch.masked_positions is not None
    starts = batch.sequence_starts.numpy()
    positions = batch.masked_positions.numpy()
    ids = batch.token_ids.numpy()
    blocks = []
    for number, instance in enumerate(sampler.instances(step)[:count]):
        start, end = starts[number], starts[number + 1]
        inside = positions[(positions >= start) & (positions < end)] - start
        blocks.append(f"instance {number + 1}: {format_instance(instance, ids[start:end], inside, tokenizer)}")
    return "\n".join(blocks)


def format_instance(instance: Instance, masked_ids: np.ndarray, positions: np.ndarray, tokenizer: Tokenizer) -> str:
    """Return three lines: what the instance is, A and B. A token to predict is written ``seen<original>``.

    Args:
        instance: as it was before masking.
        masked_ids: (L,) int64, as the encoder sees it.
        positions: (M,) int64, tokens to predict.
        tokenizer: the one of the ids.
    """
    tokens = [tokenizer.tokens[number] for number in masked_ids.tolist()]
    for position in positions.tolist():
        tokens[position] += f"<{tokenizer.tokens[int(instance.token_ids[position])]}>"
    in_a = int((instance.segment_ids == 0).sum())
    what = (
        f"B is next, both from document {instance.document_a}"
        if instance.is_next
        else f"B is random, A from document {instance.document_a}, B from document {instance.document_b}"
    )
    return (
        f"{what}; {len(tokens)} tokens (A {in_a - 2}, B {len(tokens) - in_a - 1}), "
        f"{len(positions)} to predict, written seen<original>\n"
        f"  A  {' '.join(tokens[:in_a])}\n"
        f"  B  {' '.join(tokens[in_a:])}"
    )
