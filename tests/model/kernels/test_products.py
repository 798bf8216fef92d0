"""The compiled products of a linear layer against torch's in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.model.kernels import linear, multiplies
from bertsmith.model.kernels.products import product, weight_gradient

TYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(
            not multiplies(torch.zeros(200, 2), torch.zeros(2, 2), dtype), reason="the processor lacks the instructions"
        ),
    )
    for dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(6, 2, 2), (131, 38, 70), (517, 66, 134), (1030, 130, 64)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_numbers_and_gradients(dtype: torch.dtype, rows: int, inputs: int, outputs: int, with_bias: bool) -> None:
    torch.manual_seed(rows)
    x = torch.randn(rows, inputs).to(dtype).requires_grad_()
    weight = torch.randn(outputs, inputs, requires_grad=True)
    bias = torch.randn(outputs, requires_grad=True) if with_bias else None
    received = torch.randn(rows, outputs).to(dtype)
    ours = linear(x, weight, bias)
    # The weights enter the product rounded to its type.
    rounded = weight.to(dtype).double()
    reference = F.linear(x.double(), rounded, None if bias is None else bias.double())
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    scale = float(reference.detach().abs().max())
    torch.testing.assert_close(ours.double(), reference, rtol=tolerance, atol=1e-6 * scale)

    wanted = [x, weight, *([] if bias is None else [bias])]
    of_x, of_weight, *of_bias = torch.autograd.grad(ours, wanted, received)
    expected = received.double() @ rounded.detach()
    torch.testing.assert_close(of_x.double(), expected, rtol=tolerance, atol=1e-6 * float(expected.abs().max()))
    # Not rounded, whatever the inputs are.
    expected = received.double().T @ x.detach().double()
    assert of_weight.dtype == torch.float32
    torch.testing.assert_close(of_weight.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    for gradient in of_bias:
        torch.testing.assert_close(gradient.double(), received.double().sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
def test_long_sums(dtype: torch.dtype) -> None:
    """Longer than what is summed at a time."""
    torch.manual_seed(1)
    x, weight = torch.randn(23, 9_002).to(dtype), torch.randn(70, 9_002)
    expected = x.double() @ weight.to(dtype).double().T
    for found in (product(x, weight, True, None), product(x, weight.T.contiguous(), False, None)):
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", TYPES)
def test_gradients_of_weights_are_scaled_and_added(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    gradient, x = torch.randn(1_100, 31).to(dtype), torch.randn(1_100, 77).to(dtype)
    before = torch.randn(31, 77)
    expected = before.double() + 0.25 * gradient.double().T @ x.double()
    found = weight_gradient(gradient, x, before.clone(), 0.25, accumulate=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_frozen_weights_and_inputs_get_no_gradient() -> None:
    x, weight, bias = torch.randn(200, 8), torch.randn(6, 8), torch.randn(6, requires_grad=True)
    if not multiplies(x, weight, torch.float32):
        pytest.skip("the processor lacks the instructions")
    (gradient,) = torch.autograd.grad(linear(x, weight, bias).sum(), bias)
    torch.testing.assert_close(gradient, torch.full((6,), 200.0))


@pytest.mark.parametrize("dtype", TYPES)
def test_threads_and_other_rows_change_no_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    x, weight = torch.randn(700, 50).to(dtype).requires_grad_(), torch.randn(90, 50, requires_grad=True)
    received = torch.randn(700, 90).to(dtype)
    before = torch.get_num_threads()
    found: list[tuple[Tensor, ...]] = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = linear(x, weight, None)
        found.append((out, *torch.autograd.grad(out, [x, weight], received)))
    torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))
    assert torch.equal(linear(x[13:300], weight, None), found[0][0][13:300])


def test_what_is_left_to_torch() -> None:
    rows, weight = torch.zeros(200, 8), torch.zeros(6, 8)
    assert not multiplies(rows[:5], weight, torch.float32)
    assert not multiplies(rows, weight.double(), torch.float32)
    assert not multiplies(rows, weight, torch.float64)
    assert not multiplies(rows, torch.zeros(7, 8), torch.bfloat16)
    assert not multiplies(torch.zeros(200, 8, device="meta"), weight, torch.float32)
