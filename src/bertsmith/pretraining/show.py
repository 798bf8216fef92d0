"""Instances as a person would want to check them."""

from __future__ import annotations

from itertools import pairwise

from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.tokenizer import Tokenizer


def format_instances(sampler: Sampler, tokenizer: Tokenizer, count: int = 3, step: int = 0) -> str:
    """Return the first instances of a step as text: each masked token as ``seen<original>``."""
    batch = sampler.batch(step)
    instances = sampler.instances(step)[:count]
    assert batch.masked_positions is not None
    assert batch.masked_labels is not None
    original = dict(zip(batch.masked_positions.tolist(), batch.masked_labels.tolist(), strict=True))
    blocks = []
    for number, (instance, (start, end)) in enumerate(
        zip(instances, pairwise(batch.sequence_starts.tolist()), strict=False)
    ):
        segments: dict[int, list[str]] = {0: [], 1: []}
        for position in range(start, end):
            token = tokenizer.tokens[int(batch.token_ids[position])]
            if position in original:
                token += f"<{tokenizer.tokens[original[position]]}>"
            segments[int(batch.segment_ids[position])].append(token)
        masked = sum(start <= position < end for position in original)
        verdict = "B is next" if instance.is_next else f"B is random, from document {instance.document_b}"
        blocks.append(
            f"instance {number + 1}: {end - start} tokens, {masked} to predict (seen<original>), "
            f"A from document {instance.document_a}, {verdict}\n"
            f"  A  {' '.join(segments[0])}\n  B  {' '.join(segments[1])}"
        )
    return "\n".join(blocks)
