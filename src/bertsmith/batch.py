"""Batch: many sequences end to end, without padding, and how they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """N sequences of T tokens in total, laid end to end.

    The same type serves pre-training, fine-tuning, evaluation and prediction; targets that a task does
    not have stay ``None``.

    Attributes:
        token_ids: (T,) int64.
        segment_ids: (T,) int64, 0 for A and 1 for B.
        position_ids: (T,) int64, from 0 in each sequence.
        sequence_starts: (N + 1,) int64; sequence n is ``[starts[n], starts[n + 1])``.
        max_length: length of the longest sequence.
        masked_positions: (M,) int64, indices into the T tokens whose original is to be predicted.
        masked_labels: (M,) int64, the original tokens.
        labels: the task's targets. One class per sequence: (N,) int64 (for pre-training: 0 = B is next, 1 = B is
            random). One number: (N,) float32. Any labels: (N, C) float32 of 0 and 1. One right ending per group of
            sequences: (groups,) int64. Tags: (T,) int64, -100 where there is none. Spans: (N, 2) int64, first and
            last token, counted inside the sequence.
    """

    token_ids: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    sequence_starts: Tensor
    max_length: int
    masked_positions: Tensor | None = None
    masked_labels: Tensor | None = None
    labels: Tensor | None = None
    idle: bool = False

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.sequence_starts) - 1

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def pack(
    token_ids: Sequence[np.ndarray | Sequence[int]],
    segment_ids: Sequence[np.ndarray | Sequence[int]] | None = None,
    labels: Sequence[int] | None = None,
) -> Batch:
    """Lay sequences end to end.

    Args:
        token_ids: N sequences of at least one id each.
        segment_ids: the same shape; all 0 if not given.
        labels: one class per sequence.
    """
    lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("a batch needs at least one sequence, and each sequence at least one token")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate([np.asarray(s, dtype=np.int64) for s in token_ids])
    if segment_ids is None:
        segments = np.zeros_like(ids)
    else:
        segments = np.concatenate([np.asarray(s, dtype=np.int64) for s in segment_ids])
        if [len(s) for s in segment_ids] != lengths.tolist():
            raise ValueError("every sequence needs as many segment ids as token ids")
    if labels is not None and len(labels) != len(lengths):
        raise ValueError(f"{len(lengths)} sequences but {len(labels)} labels")
    positions = np.arange(len(ids), dtype=np.int64) - np.repeat(starts[:-1], lengths)
    return Batch(
        token_ids=torch.from_numpy(ids),
        segment_ids=torch.from_numpy(segments),
        position_ids=torch.from_numpy(positions),
        sequence_starts=torch.from_numpy(starts),
        max_length=int(lengths.max()),
        labels=None if labels is None else torch.tensor(list(labels), dtype=torch.int64),
    )


def join(batches: Sequence[Batch]) -> Batch:
    """Lay batches end to end, so that their sequences go through a model together; labels are not kept."""
    places = np.cumsum([0, *(batch.num_tokens for batch in batches)]).tolist()
    masked = [
        batch.masked_positions + place
        for batch, place in zip(batches, places, strict=False)
        if batch.masked_positions is not None
    ]
    starts = [batch.sequence_starts[1:] + place for batch, place in zip(batches, places, strict=False)]
    return Batch(
        token_ids=torch.cat([batch.token_ids for batch in batches]),
        segment_ids=torch.cat([batch.segment_ids for batch in batches]),
        position_ids=torch.cat([batch.position_ids for batch in batches]),
        sequence_starts=torch.cat([batches[0].sequence_starts[:1], *starts]),
        max_length=max(batch.max_length for batch in batches),
        masked_positions=torch.cat(masked) if masked else None,
    )


def by_token_budget(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group sequence numbers into batches of at most ``max_tokens`` tokens, similar lengths together.

    A single sequence longer than the budget gets a batch of its own. Every number occurs exactly once;
    the order inside the result is by falling length, so the largest batch comes first.
    """
    batches: list[list[int]] = []
    room = 0
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        if not batches or lengths[number] > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(number)
        room -= lengths[number]
    return batches
