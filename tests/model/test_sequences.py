"""An LSTM over packed sequences against torch's own over each sequence by itself."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from bertsmith.model import sequences
from bertsmith.model.sequences import over_each_sequence, where_directions_end

LENGTHS = (4, 1, 9, 4)
STARTS = torch.tensor([0, *itertools.accumulate(LENGTHS)])


def lstm_and_vectors() -> tuple[nn.LSTM, Tensor]:
    torch.manual_seed(1)
    return nn.LSTM(6, 5, bidirectional=True), torch.randn(sum(LENGTHS), 6, requires_grad=True)


def one_by_one(lstm: nn.LSTM, vectors: Tensor) -> Tensor:
    return torch.cat([lstm(part[:, None])[0][:, 0] for part in torch.split(vectors, LENGTHS)])


def figures(outputs: Tensor, lstm: nn.LSTM, vectors: Tensor) -> list[Tensor]:
    """Return the outputs and the gradients of a number that weighs each of them differently."""
    weights = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
    gradients = torch.autograd.grad((outputs.float() * weights).sum(), [vectors, *lstm.parameters()])
    return [outputs.detach().float(), *gradients]


@pytest.mark.parametrize(("rectangles", "stretch"), [(True, 16), (True, 4), (True, 1), (False, 16)])
def test_each_sequence_is_by_itself(monkeypatch: pytest.MonkeyPatch, rectangles: bool, stretch: int) -> None:
    monkeypatch.setattr(sequences, "_takes_rectangles", lambda vectors: rectangles)
    monkeypatch.setattr(sequences, "_STRETCH", stretch)
    lstm, vectors = lstm_and_vectors()
    found = figures(over_each_sequence(lstm, vectors, STARTS), lstm, vectors)
    for one, other in zip(found, figures(one_by_one(lstm, vectors), lstm, vectors), strict=True):
        torch.testing.assert_close(one, other)


def test_under_autocast_the_numbers_are_rounded() -> None:
    lstm, vectors = lstm_and_vectors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = over_each_sequence(lstm, vectors, STARTS)
    found = figures(outputs, lstm, vectors)
    for one, other in zip(found, figures(one_by_one(lstm, vectors), lstm, vectors), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.03)


def test_a_processor_without_bfloat16_keeps_packed_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    _, vectors = lstm_and_vectors()
    assert sequences._takes_rectangles(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not sequences._takes_rectangles(vectors)


def test_where_directions_end() -> None:
    lstm, vectors = lstm_and_vectors()
    outputs = one_by_one(lstm, vectors)
    _, (states, _) = lstm(vectors[5:14, None])
    torch.testing.assert_close(where_directions_end(outputs, STARTS)[2], states.flatten())
