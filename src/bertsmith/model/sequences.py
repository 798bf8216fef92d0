"""Recurrent layers over packed sequences."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

# Steps that the sequences that are long enough take together.
_STRETCH = 16


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
    """Do it in stretches of a few steps, each a rectangle of the sequences that are that long, the longest first.

    Both directions are forward passes, the second over the sequences turned around. What pads a sequence comes after
    all that is real, so it changes nothing.
    """
    lengths = sequence_starts.diff()
    falling = torch.argsort(lengths, descending=True, stable=True)
    ranks = torch.empty_like(falling)
    ranks[falling] = torch.arange(len(falling))
    owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    places = torch.arange(len(owners)) - sequence_starts[owners]
    begins = range(0, int(lengths.max()), _STRETCH)
    # Of each stretch: its sequences, its steps, and the first of its cells, which lie step by step, end to end.
    widths = [int((lengths > begin).sum()) for begin in begins]
    heights = [min(_STRETCH, int(lengths.max()) - begin) for begin in begins]
    firsts = list(itertools.accumulate((w * h for w, h in zip(widths, heights, strict=True)), initial=0))
    weights = [weight for weight in lstm._flat_weights if weight is not None]
    outputs = []
    for steps, own in ((places, weights[:4]), (lengths[owners] - 1 - places, weights[4:])):
        stretch = steps // _STRETCH
        cells = torch.tensor(firsts)[stretch] + steps % _STRETCH * torch.tensor(widths)[stretch] + ranks[owners]
        laid_out = vectors.new_zeros(firsts[-1], vectors.shape[1]).index_copy(0, cells, vectors)
        hidden = memory = vectors.new_zeros(1, len(lengths), lstm.hidden_size)
        parts = []
        for width, rectangle in zip(widths, laid_out.tensor_split(firsts[1:-1]), strict=True):
            state = (hidden[:, :width].contiguous(), memory[:, :width].contiguous())
            part = rectangle.view(-1, width, vectors.shape[1])
            output, hidden, memory = torch.lstm(part, state, own, True, 1, 0.0, lstm.training, False, False)
            parts.append(output.flatten(0, 1))
        outputs.append(torch.cat(parts).index_select(0, cells))
    return torch.cat(outputs, 1)
