"""From the vectors of a text's tokens to one vector."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Pooling: TypeAlias = Literal["cls", "mean", "max"]


def pool(vectors: Tensor, sequence_starts: Tensor, how: Pooling) -> Tensor:
    """Return (N, W) of N sequences; every token counts, [CLS] and [SEP] too, and there is no padding that could.

    Args:
        vectors: (T, W) of all tokens; for ``cls`` (N, W) of those that sum sequences up.
        sequence_starts: (N + 1,) int64.
        how: the vector of the token that sums a sequence up (:meth:`bertsmith.model.bert.Bert.summing_tokens`: [CLS],
            or the last one of a model that reads left to right), or the tokens' mean or maximum.
    """
    if how == "cls":
        return vectors
    pooled: Tensor = torch.segment_reduce(vectors, how, lengths=sequence_starts.diff(), axis=0)
    return pooled
