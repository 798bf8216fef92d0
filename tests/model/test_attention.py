"""Packed attention against a plain loop over the sequences."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from bertsmith.model.attention import packed_attention, plan_attention


def one_by_one(values: Tensor, starts: list[int], num_heads: int) -> Tensor:
    """Softmax attention written out, a sequence at a time."""
    outputs = []
    for start, end in itertools.pairwise(starts):
        query, key, value = (
            part.view(end - start, num_heads, -1).transpose(0, 1) for part in values[start:end].chunk(3, dim=1)
        )
        weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
        outputs.append((weights @ value).transpose(0, 1).reshape(end - start, -1))
    return torch.cat(outputs)


@pytest.mark.parametrize("lengths", [(5, 1, 17, 3, 16, 2, 9, 9, 1, 13, 11), (7, 7, 7), (1,), (64, 1, 1, 1, 1, 1, 1)])
def test_equals_a_loop_with_gradients(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), 3 * 21, requires_grad=True)
    plan = plan_attention(starts, torch.device("cpu"))
    weights = torch.randn(sum(lengths), 21)

    ours = packed_attention(values, plan, 3, dropout=0.0)
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), values)
    reference = one_by_one(values, starts.tolist(), 3)
    (gradient,) = torch.autograd.grad((reference * weights).sum(), values)

    assert torch.allclose(ours, reference, atol=1e-5)
    assert torch.allclose(our_gradient, gradient, atol=1e-5)


def test_buckets_hold_every_token_once_and_little_padding() -> None:
    lengths = torch.randint(3, 129, (61,), generator=torch.Generator().manual_seed(1))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    plan = plan_attention(starts, torch.device("cpu"))
    laid_out = plan.index
    assert sum(bucket.sequences * bucket.length for bucket in plan.buckets) == len(laid_out)
    assert torch.equal(laid_out[plan.unpack], torch.arange(int(lengths.sum())))
    assert len(laid_out) < 1.25 * int(lengths.sum())


def test_dropout_drops_weights_in_training_only_when_asked() -> None:
    torch.manual_seed(2)
    values = torch.randn(13, 3 * 8)
    plan = plan_attention(torch.tensor([0, 13]), torch.device("cpu"))
    plain = packed_attention(values, plan, 2, dropout=0.0)
    dropped = packed_attention(values, plan, 2, dropout=0.5)
    assert not torch.allclose(plain, dropped, atol=1e-3)


def test_dropped_weights_are_left_out_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    values = torch.randn(13, 3 * 8)
    plan = plan_attention(torch.tensor([0, 4, 13]), torch.device("cpu"))
    # With nothing dropped, the way with dropout is the way without.
    monkeypatch.setattr("bertsmith.model.attention.drop", lambda weights, probability: weights)
    plain = packed_attention(values, plan, 2, dropout=0.0)
    torch.testing.assert_close(packed_attention(values, plan, 2, dropout=0.5), plain)
