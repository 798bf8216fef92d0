"""Recurrent layers over packed sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def over_each_sequence(lstm: nn.LSTM, vectors: Tensor, sequence_starts: Tensor) -> Tensor:
    """Run an LSTM of one layer in both directions over packed sequences, each sequence by itself.

    Args:
        lstm: bidirectional, one layer.
        vectors: (T, W).
        sequence_starts: (N + 1,) int64.

    Returns:
        (T, 2 x hidden_size of the LSTM), forward and backward side by side.
    """
    if _takes_rectangles(vectors):
        return _in_rectangles(lstm, vectors, sequence_starts)
    sequences = list(torch.split(vectors, sequence_starts.diff().tolist()))
    outputs, _ = lstm(nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False))
    return torch.cat(nn.utils.rnn.unpack_sequence(outputs))


def where_directions_end(outputs: Tensor, sequence_starts: Tensor) -> Tensor:
    """Return (N, W): each sequence's last forward and first backward output of a bidirectional LSTM's (T, W)."""
    forward, backward = outputs.chunk(2, dim=1)
    return torch.cat([forward[sequence_starts[1:] - 1], backward[sequence_starts[:-1]]], 1)


def _takes_rectangles(vectors: Tensor) -> bool:
    """Tell whether torch's LSTM is faster over padded rectangles: on a CPU, whose library has no packed one.

    In bfloat16 the library refuses processors without the instructions; packed sequences are computed in float32.
    """
    if vectors.device.type != "cpu":
        return False
    return not torch.is_autocast_enabled("cpu") or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _in_rectangles(lstm: nn.LSTM, vectors: Tensor, sequence_starts: Tensor) -> Tensor:
    """Do it with both directions as one forward pass each, the second over the sequences turned around.

    What pads a sequence comes after all that is real, so it changes nothing.
    """
    lengths = sequence_starts.diff()
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    places = torch.arange(len(owners)) - sequence_starts[owners]
    turned = lengths[owners] - 1 - places
    weights = [weight for weight in lstm._flat_weights if weight is not None]
    outputs = []
    for steps, own in ((places, weights[:4]), (turned, weights[4:])):
        cells = steps * len(lengths) + owners  # of (L, N), laid end to end
        rectangle = vectors.new_zeros(int(lengths.max()) * len(lengths), vectors.shape[1])
        rectangle = rectangle.index_copy(0, cells, vectors).view(-1, len(lengths), vectors.shape[1])
        state = vectors.new_zeros(1, len(lengths), lstm.hidden_size)
        output, _, _ = torch.lstm(rectangle, (state, state), own, True, 1, 0.0, lstm.training, False, False)
        outputs.append(output.flatten(0, 1).index_select(0, cells))
    return torch.cat(outputs, 1)
