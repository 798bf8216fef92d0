"""BERT's vectors as they are, computed once and remembered: what models on top of a frozen encoder read."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch, pack
from bertsmith.comparison.networks import weighted_sum
from bertsmith.features.layers import Layers, token_vectors
from bertsmith.model.bert import Bert

# What is remembered of one choice of layers; above it vectors are made anew each time they are read.
_MOST_BYTES = 4e9


class VectorMemory:
    """Vectors (tokens, W) in float16 by a sequence's ids and segments; models that read the same layers share one.

    Attributes:
        is_full: something found no room.
        is_told: the user knows that.
    """

    def __init__(self) -> None:
        self.is_full = self.is_told = False
        self._vectors: dict[bytes, Tensor] = {}
        self._bytes = 0

    def get(self, key: bytes) -> Tensor | None:
        """Return a sequence's vectors if they are there."""
        return self._vectors.get(key)

    def put(self, key: bytes, vectors: Tensor) -> None:
        """Keep a sequence's vectors, if there is room."""
        if self._bytes + vectors.nbytes > _MOST_BYTES:
            self.is_full = True
        elif key not in self._vectors:
            self._vectors[key] = vectors.clone()
            self._bytes += vectors.nbytes

    def forget(self, key: bytes) -> None:
        """Drop a sequence's vectors if they are there."""
        found = self._vectors.pop(key, None)
        self._bytes -= 0 if found is None else found.nbytes


class FrozenVectors(nn.Module):
    """A source of BERT's vectors. The encoder is not among its parameters and is never trained.

    Args:
        bert: the encoder, in evaluation mode.
        layers: whose outputs are taken.
        weighted: weigh the layers by a softmax that is learned (Peters et al. 2018), instead of laying them side by
            side; they must be laid out so.
        memory: where vectors are kept.
    """

    def __init__(self, bert: Bert, layers: Layers, memory: VectorMemory, *, weighted: bool = False) -> None:
        super().__init__()
        self._bert = (bert,)  # in a tuple, so that it is no part of this module
        self._layers = layers
        self.memory = memory
        hidden_size = bert.config.hidden_size
        self.width = hidden_size if weighted else layers.width(hidden_size)
        self.weights = nn.Parameter(torch.zeros(len(layers.numbers))) if weighted else None

    def forward(self, batch: Batch) -> Tensor:
        """Return (T, W)."""
        # What is remembered does not depend on the arithmetic of the model that asks first.
        with torch.autocast(batch.token_ids.device.type, enabled=False):
            vectors = self._vectors(batch)
            if self.weights is None:
                return vectors
            return weighted_sum(vectors.view(len(vectors), len(self._layers.numbers), -1), self.weights)

    def _vectors(self, batch: Batch) -> Tensor:
        """Return (T, width of the layers side by side) float32."""
        keys = sequence_keys(batch)
        found = {key: vectors for key in keys if (vectors := self.memory.get(key)) is not None}
        found |= self._made(batch, [n for n, key in enumerate(keys) if key not in found], keys)
        return torch.cat([found[key] for key in keys]).to(batch.token_ids.device).float()

    @torch.no_grad()
    def _made(self, batch: Batch, missing: list[int], keys: list[bytes]) -> dict[bytes, Tensor]:
        """Run the encoder over the sequences with the numbers ``missing``; return their vectors by key."""
        if not missing:
            return {}
        borders = list(itertools.pairwise(batch.sequence_starts.tolist()))
        ids, segments = batch.token_ids.cpu().numpy(), batch.segment_ids.cpu().numpy()
        part = pack([ids[slice(*borders[n])] for n in missing], [segments[slice(*borders[n])] for n in missing]).to(
            batch.token_ids.device
        )
        vectors = token_vectors(self._bert[0], part, self._layers, firsts_only=False).half().cpu()
        lengths = part.sequence_starts.diff().tolist()
        made = {keys[n]: piece for n, piece in zip(missing, torch.split(vectors, lengths), strict=True)}
        for key, piece in made.items():
            self.memory.put(key, piece)
        return made


def sequence_keys(batch: Batch) -> list[bytes]:
    """Return what tells the sequences of a batch apart: their ids and segments."""
    ids, segments = batch.token_ids.cpu().numpy(), batch.segment_ids.cpu().numpy()
    return [
        ids[start:end].tobytes() + segments[start:end].tobytes()
        for start, end in itertools.pairwise(batch.sequence_starts.tolist())
    ]
