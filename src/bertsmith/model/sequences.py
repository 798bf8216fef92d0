"""Recurrent layers over packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def over_each_sequence(lstm: nn.LSTM, vectors: Tensor, sequence_starts: Tensor) -> Tensor:
    """Run an LSTM over (T, W) vectors of packed sequences, each sequence by itself; return (T, its width)."""
    sequences = list(torch.split(vectors, sequence_starts.diff().tolist()))
    outputs, _ = lstm(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    return torch.cat(nn.utils.rnn.unpack_sequence(outputs))


def where_directions_end(outputs: Tensor, sequence_starts: Tensor) -> Tensor:
    """Return (N, W): each sequence's last forward and first backward output of a bidirectional LSTM's (T, W)."""
    forward, backward = outputs.chunk(2, dim=1)
    return torch.cat([forward[sequence_starts[1:] - 1], backward[sequence_starts[:-1]]], 1)
