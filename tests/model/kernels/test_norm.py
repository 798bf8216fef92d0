"""The norm of a residual sum by the compiled kernel, against torch's operators in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.model.kernels import normalize, supports

pytestmark = pytest.mark.skipif(not supports(torch.zeros(1)), reason="no C++ compiler")

TYPES = [torch.float32, torch.bfloat16]


def parts(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, nn.LayerNorm]:
    """Return a residual, x, a bias and a norm away from its usual start."""
    torch.manual_seed(rows + width)
    norm = nn.LayerNorm(width, eps=1e-5)
    for parameter in norm.parameters():
        parameter.data += torch.randn_like(parameter)
    x = torch.randn(rows, width).to(dtype)
    return torch.randn(rows, width).requires_grad_(), x.requires_grad_(), torch.randn(width).requires_grad_(), norm


def exact(residual: Tensor, x: Tensor | None, bias: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    total = residual.double() if x is None else residual.double() + x.double()
    total = total if bias is None else total + bias.double()
    return F.layer_norm(total, (total.shape[1],), norm.weight.double(), norm.bias.double(), norm.eps)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("given", ["x and bias", "x", "neither"])
@pytest.mark.parametrize(("rows", "width"), [(1, 5), (63, 16), (65, 33), (130, 7)])
def test_numbers_and_gradients(dtype: torch.dtype, given: str, rows: int, width: int) -> None:
    residual, x, bias, norm = parts(rows, width, dtype)
    inputs = [residual, *([] if given == "neither" else [x]), *([bias] if given == "x and bias" else [])]
    some_x = None if given == "neither" else x
    some_bias = bias if given == "x and bias" else None
    ours, copy = normalize(residual, some_x, some_bias, norm, dtype)
    reference = exact(residual, some_x, some_bias, norm)
    torch.testing.assert_close(ours.double(), reference, rtol=2e-5, atol=2e-6)
    assert copy.dtype == dtype
    assert torch.equal(copy, ours.to(dtype))

    received, of_copy = torch.randn(rows, width), torch.randn(rows, width).to(dtype)
    wanted = [*inputs, norm.weight, norm.bias]
    our_gradients = torch.autograd.grad([ours, copy], wanted, [received, of_copy])
    gradients = torch.autograd.grad(reference, wanted, received.double() + of_copy.double())
    for our, gradient in zip(our_gradients, gradients, strict=True):
        assert our.dtype == gradient.dtype
        # The gradient of x is rounded to its type.
        scale = float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(our, gradient, rtol=1e-2 if our.dtype == torch.bfloat16 else 1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", TYPES)
def test_either_result_may_stay_unused(dtype: torch.dtype) -> None:
    residual, x, bias, norm = parts(7, 9, dtype)
    first, second = normalize(residual, x, bias, norm, dtype)
    both = torch.autograd.grad(
        [first, second], residual, [torch.ones(7, 9), torch.ones(7, 9).to(dtype)], retain_graph=True
    )
    alone = [torch.autograd.grad(out.sum(), residual, retain_graph=True)[0] for out in (first, second)]
    torch.testing.assert_close(alone[0], alone[1])
    torch.testing.assert_close(both[0], 2 * alone[0], rtol=1e-4, atol=1e-5)


def test_what_needs_no_gradient_gets_none() -> None:
    residual, x, bias, norm = parts(5, 9, torch.float32)
    norm.requires_grad_(False)
    out, _ = normalize(residual.detach(), x, bias.detach(), norm, torch.float32)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    reference = exact(residual.detach(), x, bias.detach(), norm)
    torch.testing.assert_close(gradient, torch.autograd.grad(reference.square().sum(), x)[0], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not normalize(residual, x, bias, norm, torch.float32)[0].requires_grad


def dropped_inside(probability: float, seed: int, rows: int = 301, width: int = 70) -> tuple[Tensor, Tensor]:
    """Return which values of x were dropped, and the factor of the others, from the gradient of x."""
    torch.manual_seed(seed)
    x, norm = torch.ones(rows, width, requires_grad=True), nn.LayerNorm(width)
    residual = torch.arange(rows * width).view(rows, width).cos().requires_grad_()
    out, _ = normalize(residual, x, torch.zeros(width), norm, torch.float32, inside=probability)
    of_x, of_residual = torch.autograd.grad(out, [x, residual], torch.randn(rows, width))
    # The same masked numbers were normalised.
    factors = of_x / of_residual
    torch.testing.assert_close(out, norm(residual + x * factors), rtol=1e-4, atol=1e-4)
    return factors < 0.5, factors[factors > 0.5]


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_the_share_that_is_dropped_inside_and_the_scale_of_the_rest(probability: float) -> None:
    dropped, factors = dropped_inside(probability, 3)
    deviation = (probability * (1 - probability) / dropped.numel()) ** 0.5
    assert float(dropped.double().mean()) == pytest.approx(probability, abs=5 * deviation)
    torch.testing.assert_close(factors, torch.full_like(factors, 1 / (1 - probability)), rtol=1e-3, atol=0)
    flat = dropped.double().flatten() - probability
    for distance in (1, 2, 3, 16, 70):
        correlation = float((flat[distance:] * flat[:-distance]).mean() / probability / (1 - probability))
        assert abs(correlation) < 5 / len(flat) ** 0.5


def test_seeds_repeat_and_differ() -> None:
    first, again, other = (dropped_inside(0.3, seed)[0] for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert 0.3 < float((first != other).double().mean()) < 0.6


def test_dropout_of_the_result() -> None:
    torch.manual_seed(3)
    residual, norm = torch.randn(301, 70, requires_grad=True), nn.LayerNorm(70)
    out, copy = normalize(residual, None, None, norm, torch.bfloat16, outside=0.25)
    dropped = out == 0
    assert float(dropped.double().mean()) == pytest.approx(0.25, abs=0.015)
    torch.testing.assert_close(out, norm(residual) * ~dropped / 0.75)
    assert torch.equal(copy, out.bfloat16())
    received = torch.randn(301, 70)
    gradient, reference = (
        torch.autograd.grad(values, residual, received)[0] for values in (out, norm(residual) * ~dropped / 0.75)
    )
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    def all_of_it(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        residual, x, bias, norm = parts(333, 21, dtype)
        outputs = normalize(residual, x, bias, norm, dtype, inside=0.2)
        received = [torch.randn(333, 21), torch.randn(333, 21).to(dtype)]
        found = torch.autograd.grad(outputs, [residual, x, bias, norm.weight, norm.bias], received)
        torch.set_num_threads(before)
        return [*outputs, *found]

    for one, three in zip(all_of_it(1), all_of_it(3), strict=True):
        assert torch.equal(one, three)
