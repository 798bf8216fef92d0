"""Dropout: how often, how it scales, what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from bertsmith.model.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.99])
def test_drops_the_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(3)
    count = 400_003
    dropped = dropout(torch.ones(count), probability)
    share = float((dropped == 0).double().mean())
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert share == pytest.approx(probability, abs=5 * deviation + 1e-5)
    assert dropped[dropped > 0].unique().tolist() == [pytest.approx(1 / (1 - probability), rel=1e-3)]


def test_values_are_dropped_independently_of_their_neighbours() -> None:
    torch.manual_seed(3)
    kept = (dropout(torch.ones(400_000), 0.5) > 0).double() - 0.5
    for distance in (1, 2, 3, 4, 5, 384):
        correlation = float((kept[distance:] * kept[:-distance]).mean() * 4)
        assert abs(correlation) < 5 / 400_000**0.5


def test_gradients_pass_where_values_do_and_seeds_repeat() -> None:
    values = torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(4)
    out = dropout(values, 0.3)
    out.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(out, values * values.grad)
    torch.manual_seed(4)
    assert torch.equal(dropout(values, 0.3), out)
    assert not torch.equal(dropout(values, 0.3), out)


def test_types_and_evaluation() -> None:
    layer, values = Dropout(0.4), torch.randn(3, 5).bfloat16()
    assert layer(values).dtype == torch.bfloat16
    assert layer.eval()(values) is values
    assert dropout(values, 0.0) is values
