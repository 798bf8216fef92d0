"""The compiled GELU against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bertsmith.model.kernels import gelu, supports

pytestmark = pytest.mark.skipif(not supports(torch.zeros(1)), reason="no C++ compiler")


def defined(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return x times the normal distribution's function, and the derivative."""
    below, density = torch.special.ndtr(z), (-z * z / 2).exp() / math.sqrt(2 * math.pi)
    return z * below, below + z * density


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1.5e-6), (torch.bfloat16, 2**-8)])
def test_precise_in_the_left_tail_too(dtype: torch.dtype, share: float) -> None:
    x = torch.linspace(-9, 9, 100_001)[None].to(dtype).requires_grad_()
    out = gelu(x, None)
    (slope,) = torch.autograd.grad(out, x, torch.ones_like(out))
    assert out.dtype == slope.dtype == dtype
    value, derivative = defined(x.detach().double())
    out = out.detach()
    near = x.detach().abs() < 5
    assert float(((out.double() - value).abs() / value.abs().clamp(min=1e-30))[near & (x != 0)].max()) < share
    assert float((out.double() - value).abs().max()) < share * 9
    assert float((slope.double() - derivative).abs().max()) < share


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (65, 33), (130, 16)])
def test_bias_and_gradients(dtype: torch.dtype, rows: int, width: int) -> None:
    torch.manual_seed(rows)
    x = torch.randn(rows, width).to(dtype).requires_grad_()
    bias, received = torch.randn(width, requires_grad=True), torch.randn(rows, width).to(dtype)
    out = gelu(x, bias)
    value, derivative = defined((x.double() + bias.double()).detach())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out.double(), value, rtol=tolerance, atol=1e-6)
    of_x, of_bias = torch.autograd.grad(out, [x, bias], received)
    torch.testing.assert_close(of_x.double(), derivative * received.double(), rtol=tolerance, atol=tolerance / 3)
    expected = (derivative * received.double()).sum(0)
    torch.testing.assert_close(of_bias.double(), expected, rtol=1e-3, atol=1e-4 * rows)


def test_what_is_no_number_stays_so() -> None:
    out = gelu(torch.tensor([[math.nan, 300.0, -300.0, 0.0]]), None)
    assert out[0, 0].isnan()
    assert out[0, 1:].tolist() == [300.0, 0.0, 0.0]
    short = gelu(torch.tensor([[math.nan, 300.0, -300.0, 0.0]]).bfloat16(), None)
    assert short[0, 0].isnan()
    assert short[0, 1:].tolist() == [300.0, 0.0, 0.0]


def test_threads_change_no_bit() -> None:
    torch.manual_seed(1)
    x, bias, received = torch.randn(333, 21), torch.randn(21, requires_grad=True), torch.randn(333, 21)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        out = gelu(x, bias)
        found.append((out, *torch.autograd.grad(out, bias, received)))
    torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*found, strict=True))
