"""BERT's vectors as they are, computed once and remembered: what models on top of a frozen encoder read."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch, pack
from bertsmith.comparison.networks import weighted_sum
from bertsmith.features.layers import Layers, token_vectors
from bertsmith.model.bert import Bert

Memory = dict[bytes, Tensor]
"""Vectors (tokens, W) in float16 by a sequence's ids and segments; models that read the same layers share one."""


class FrozenVectors(nn.Module):
    """A source of BERT's vectors. The encoder is not among its parameters and is never trained.

    Args:
        bert: the encoder, in evaluation mode.
        layers: whose outputs are taken.
        weighted: weigh the layers by a softmax that is learned (Peters et al. 2018), instead of laying them side by
            side; they must be laid out so.
        memory: where vectors are kept.
    """

    def __init__(self, bert: Bert, layers: Layers, memory: Memory, *, weighted: bool = False) -> None:
        super().__init__()
        self._bert = (bert,)  # in a tuple, so that it is no part of this module
        self._layers = layers
        self._memory = memory
        hidden_size = bert.config.hidden_size
        self.width = hidden_size if weighted else layers.width(hidden_size)
        self.weights = nn.Parameter(torch.zeros(len(layers.numbers))) if weighted else None

    def forward(self, batch: Batch) -> Tensor:
        """Return (T, W)."""
        keys = sequence_keys(batch)
        self._remember(batch, [n for n, key in enumerate(keys) if key not in self._memory], keys)
        vectors = torch.cat([self._memory[key] for key in keys]).to(batch.token_ids.device).float()
        if self.weights is None:
            return vectors
        return weighted_sum(vectors.view(len(vectors), len(self._layers.numbers), -1), self.weights)

    @torch.no_grad()
    def _remember(self, batch: Batch, missing: list[int], keys: list[bytes]) -> None:
        if not missing:
            return
        borders = list(itertools.pairwise(batch.sequence_starts.tolist()))
        ids, segments = batch.token_ids.cpu().numpy(), batch.segment_ids.cpu().numpy()
        part = pack([ids[slice(*borders[n])] for n in missing], [segments[slice(*borders[n])] for n in missing]).to(
            batch.token_ids.device
        )
        vectors = token_vectors(self._bert[0], part, self._layers, firsts_only=False).half().cpu()
        lengths = part.sequence_starts.diff().tolist()
        for n, piece in zip(missing, torch.split(vectors, lengths), strict=True):
            self._memory[keys[n]] = piece.clone()


def sequence_keys(batch: Batch) -> list[bytes]:
    """Return what tells the sequences of a batch apart: their ids and segments."""
    ids, segments = batch.token_ids.cpu().numpy(), batch.segment_ids.cpu().numpy()
    return [
        ids[start:end].tobytes() + segments[start:end].tobytes()
        for start, end in itertools.pairwise(batch.sequence_starts.tolist())
    ]
