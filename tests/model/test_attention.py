"""Packed attention, by the compiled kernel and by torch's operators, against a plain loop over the sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bertsmith.model.attention import attend_in_rectangles, packed_attention, plan_attention
from bertsmith.model.kernels import attend, supports

CPU = torch.device("cpu")
Attention = Callable[..., Tensor]


def by_torch(values: Tensor, starts: Tensor, num_heads: int, dropout: float, left_to_right: bool = False) -> Tensor:
    return attend_in_rectangles(values, plan_attention(starts, CPU).rectangles, num_heads, dropout, left_to_right)


needs_kernel = pytest.mark.skipif(not supports(torch.zeros(1)), reason="no C++ compiler")
both_ways = pytest.mark.parametrize("attention", [by_torch, pytest.param(attend, marks=needs_kernel)])


def one_by_one(values: Tensor, starts: list[int], num_heads: int, left_to_right: bool = False) -> Tensor:
    """Softmax attention written out, a sequence at a time."""
    outputs = []
    for start, end in itertools.pairwise(starts):
        query, key, value = (
            part.view(end - start, num_heads, -1).transpose(0, 1) for part in values[start:end].chunk(3, dim=1)
        )
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if left_to_right:
            scores = scores.masked_fill(torch.ones(end - start, end - start).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        outputs.append((weights @ value).transpose(0, 1).reshape(end - start, -1))
    return torch.cat(outputs)


@both_ways
@pytest.mark.parametrize("left_to_right", [False, True])
@pytest.mark.parametrize(("heads", "width"), [(3, 21), (2, 80), (1, 5)])
@pytest.mark.parametrize(
    "lengths", [(5, 1, 17, 3, 16, 2, 9, 9, 1, 13, 11), (7, 7, 7), (1,), (64, 1, 1, 1, 1, 1, 1), (49, 97, 48, 200)]
)
def test_equals_a_loop_with_gradients(
    attention: Attention, lengths: tuple[int, ...], heads: int, width: int, left_to_right: bool
) -> None:
    torch.manual_seed(2)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), 3 * width, requires_grad=True)
    weights = torch.randn(sum(lengths), width)

    ours = attention(values, starts, heads, 0.0, left_to_right)
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), values)
    exact = values.detach().double().requires_grad_()
    reference = one_by_one(exact, starts.tolist(), heads, left_to_right)
    (gradient,) = torch.autograd.grad((reference * weights).sum(), exact)

    torch.testing.assert_close(ours.double(), reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_gradient.double(), gradient, atol=2e-5, rtol=1e-5)


def test_buckets_hold_every_token_once_and_little_padding() -> None:
    lengths = torch.randint(3, 129, (61,), generator=torch.Generator().manual_seed(1))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    plan = plan_attention(starts, CPU).rectangles
    laid_out = plan.index
    assert sum(bucket.sequences * bucket.length for bucket in plan.buckets) == len(laid_out)
    assert torch.equal(laid_out[plan.unpack], torch.arange(int(lengths.sum())))
    assert len(laid_out) < 1.25 * int(lengths.sum())


@both_ways
def test_dropout_keeps_the_mean_and_the_seed_draws_the_same(attention: Attention) -> None:
    values = torch.randn(1300, 3 * 8, generator=torch.Generator().manual_seed(2))
    starts = torch.arange(0, 1301, 13)
    plain = attention(values, starts, 2, 0.0)
    torch.manual_seed(3)
    draws = [attention(values, starts, 2, 0.25) for _ in range(400)]
    torch.manual_seed(3)
    assert torch.equal(attention(values, starts, 2, 0.25), draws[0])
    assert not torch.allclose(draws[0], draws[1], atol=1e-2)
    deviation = (draws[0] - plain).std().item()
    # The mean over draws comes near the plain context as a mean of so many independent ones does.
    assert (torch.stack(draws).mean(0) - plain).std().item() == pytest.approx(deviation / 400**0.5, rel=0.15)


@both_ways
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_the_share_asked_for(attention: Attention, probability: float) -> None:
    # Queries of 0 weigh all keys alike, and values that are unit vectors show the weights.
    length, heads = 32, 3
    values = torch.zeros(5 * length, 3, heads, length)
    values[:, 2] = torch.eye(length).repeat(5, 1)[:, None, :]
    starts = torch.arange(0, 5 * length + 1, length)
    torch.manual_seed(7)
    weights = attention(values.flatten(1), starts, heads, probability) * length
    dropped = weights == 0
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.02)
    torch.testing.assert_close(weights[~dropped], torch.full_like(weights[~dropped], 1 / (1 - probability)))
    cells = dropped.view(5, length, heads, length).float() - dropped.float().mean()
    for shifted in (cells.roll(1, 0), cells.roll(1, 1), cells.roll(1, 2), cells.roll(1, 3)):
        assert abs((cells * shifted).mean().item()) < 0.02 * probability  # neighbours know nothing of each other


@both_ways
@pytest.mark.parametrize("left_to_right", [False, True])
def test_dropped_weights_have_their_gradient(attention: Attention, left_to_right: bool) -> None:
    starts = torch.tensor([0, 4, 60])
    values = torch.randn(60, 3 * 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    direction = torch.randn(60, 3 * 8, generator=torch.Generator().manual_seed(3))

    def loss(inputs: Tensor) -> Tensor:
        torch.manual_seed(5)
        return attention(inputs, starts, 2, 0.3, left_to_right).double().square().sum()

    (gradient,) = torch.autograd.grad(loss(values), values)
    with torch.no_grad():
        slope = (loss(values + 1e-3 * direction) - loss(values - 1e-3 * direction)) / 2e-3
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-3)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernel_gives_a_sequence_the_same_bits_in_any_company_and_with_any_threads(dtype: torch.dtype) -> None:
    lengths = [17, 3, 60, 1, 129]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(int(starts[-1]), 3 * 24, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()

    def outcome(begin: int, end: int, starts: Tensor, dropout: float) -> list[Tensor]:
        torch.manual_seed(1)
        piece = values[begin:end]
        out = attend(piece, starts, 3, dropout)
        return [out, torch.autograd.grad(out, piece, torch.ones_like(out))[0]]

    def same(ours: list[Tensor], others: list[Tensor]) -> bool:
        return all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))

    total = int(starts[-1])
    together, dropped = (outcome(0, total, starts, dropout) for dropout in (0.0, 0.2))
    for number, length in enumerate(lengths):
        begin, end = int(starts[number]), int(starts[number + 1])
        alone = outcome(begin, end, torch.tensor([0, length]), 0.0)
        assert same(alone, [part[begin:end] for part in together])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert same(outcome(0, total, starts, 0.2), dropped)
            assert same(outcome(0, total, starts, 0.0), together)
    finally:
        torch.set_num_threads(threads)


@needs_kernel
@pytest.mark.parametrize("left_to_right", [False, True])
@pytest.mark.parametrize("lengths", [(5, 55), (1, 300)])
@pytest.mark.parametrize("width", [96, 21])
def test_kernel_in_bfloat16_errs_by_a_few_roundings(lengths: tuple[int, ...], width: int, left_to_right: bool) -> None:
    starts = torch.tensor([0, *lengths]).cumsum(0)
    generator = torch.Generator().manual_seed(2)
    half = torch.randn(sum(lengths), 3 * width, generator=generator).bfloat16().requires_grad_()
    received = torch.randn(sum(lengths), width, generator=generator).bfloat16()
    exact = half.detach().double().requires_grad_()
    out, reference = attend(half, starts, 3, 0.0, left_to_right), one_by_one(exact, starts.tolist(), 3, left_to_right)
    (gradient,) = torch.autograd.grad(out, half, received)
    (exact_gradient,) = torch.autograd.grad(reference, exact, received.double())
    assert out.dtype == gradient.dtype == torch.bfloat16
    ours, theirs = (out, *gradient.chunk(3, 1)), (reference, *exact_gradient.chunk(3, 1))
    for our, their in zip(ours, theirs, strict=True):
        # Numbers that are only rounded in the end are 0.0017 away.
        assert float(((our.double() - their).norm() / their.norm()).detach()) < 0.0035


@needs_kernel
def test_kernel_drops_the_same_weights_in_both_types() -> None:
    starts = torch.tensor([0, 5, 60, 209])
    half = torch.randn(209, 3 * 24, generator=torch.Generator().manual_seed(2)).bfloat16().requires_grad_()
    full = half.detach().float().requires_grad_()
    for values in (half, full):
        torch.manual_seed(4)
        attend(values, starts, 3, 0.4).float().square().sum().backward()  # type: ignore[no-untyped-call]
    assert half.grad is not None
    assert full.grad is not None
    assert float((half.grad.float() - full.grad).norm() / full.grad.norm()) < 0.01


@both_ways
def test_scores_far_apart_and_numbers_that_are_none(attention: Attention) -> None:
    values = torch.randn(9, 3 * 8, generator=torch.Generator().manual_seed(2)) * 60
    starts = torch.tensor([0, 9])
    torch.testing.assert_close(attention(values, starts, 2, 0.0), one_by_one(values, [0, 9], 2), atol=1e-3, rtol=1e-4)
    values[3] = torch.nan
    assert attention(values, starts, 2, 0.0)[3].isnan().all()  # a run that diverges must show it


@both_ways
@pytest.mark.parametrize("left_to_right", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_whose_exponential_is_no_number(attention: Attention, dtype: torch.dtype, left_to_right: bool) -> None:
    """The last query has the highest scores, which a kernel of whole vectors computes once more behind it."""
    torch.manual_seed(9)
    lengths = (1, 5, 17, 31, 33, 129, 141)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), 3 * 42).to(dtype)
    values[:, : 2 * 42] *= 6
    values[starts[1:] - 1, :42] = 3 * values[starts[1:] - 1, 42 : 2 * 42]
    weights = torch.randn(sum(lengths), 42)
    exact = values.double().requires_grad_()
    reference = one_by_one(exact, starts.tolist(), 2, left_to_right)
    query, key, _ = exact.detach()[-2:].chunk(3, dim=1)
    assert (query[-1, :21] @ key[-1, :21]) / 21**0.5 > 100
    (gradient,) = torch.autograd.grad((reference * weights).sum(), exact)
    given = values.requires_grad_()
    (ours,) = torch.autograd.grad((attention(given, starts, 2, 0.0, left_to_right).float() * weights).sum(), given)
    share = 0.1 if dtype == torch.bfloat16 else 1e-4
    assert (ours.double() - gradient).norm() < share * gradient.norm()


def test_other_types_go_through_torch() -> None:
    values = torch.randn(9, 3 * 8, dtype=torch.float64, requires_grad=True)
    plan = plan_attention(torch.tensor([0, 2, 9]), CPU)
    assert torch.autograd.gradcheck(lambda v: packed_attention(v, plan, 2, 0.0), values)
