"""The compiled matrix products of linear layers as a function with a gradient."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.build import library
from bertsmith.model.kernels.calling import call, scratch, size_arguments

# With fewer rows, laying out the weights takes a good part of a product's time.
_LEAST_ROWS = 128


@functools.cache
def _there() -> bool:
    """Tell whether there are kernels for this processor."""
    made = library()
    return made is not None and bool(made.products_there())


def multiplies(x: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether :func:`linear` is there for x (T, in), as ``dtype``; not for very few rows.

    Its kernels are for processors that multiply bfloat16 in vectors of 512 bits, but have no tiles: on those they are
    faster than torch's in float32 too.
    """
    return (
        x.device.type == "cpu"
        and weight.dtype == torch.float32
        and x.ndim == 2
        and len(x) >= _LEAST_ROWS
        # Two bfloat16 are one operand.
        and (dtype == torch.float32 or (dtype == torch.bfloat16 and weight.shape[0] % 2 == weight.shape[1] % 2 == 0))
        and _there()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + bias; with bfloat16, the products are of rounded numbers and their sums in float32.

    The weights' gradient is never rounded. Numbers do not depend on how many threads there are.

    Args:
        x: (T, in), float32 or bfloat16; see :func:`multiplies`.
        weight: (out, in) float32.
        bias: (out,) float32, or None.

    Returns:
        (T, out) of x's type.

    Raises:
        MemoryError: there was none for the weights in another layout.
    """
    out: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, True, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        received = out_gradient.contiguous()
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            product(received, weight, False, None) if wants_x else None,
            weight_gradient(received, x, torch.empty_like(weight)) if wants_weight else None,
            _sum_of_rows(received) if wants_bias else None,
        )


def product(x: Tensor, weight: Tensor, transposed: bool, bias: Tensor | None) -> Tensor:
    """Return x W^T + bias or, not transposed, x W + bias."""
    width = weight.shape[0 if transposed else 1]
    out = x.new_empty(len(x), width)
    sizes = map(ctypes.c_int64, (len(x), x.shape[1], width))
    if call("product", int(x.dtype == torch.bfloat16), *sizes, int(transposed), x, weight.contiguous(), bias, out):
        raise MemoryError("matrix product: no memory for the weights")
    return out


def weight_gradient(gradient: Tensor, x: Tensor, out: Tensor, factor: float = 1.0, accumulate: bool = False) -> Tensor:
    """Fill ``out`` (m, n) float32 with factor gradient^T x, or add it; (T, m) and (T, n) are of one type."""
    sizes = map(ctypes.c_int64, (len(x), *out.shape))
    kind = int(x.dtype == torch.bfloat16)
    if call("weight_gradient", kind, *sizes, gradient, x, ctypes.c_float(factor), out, int(accumulate)):
        raise MemoryError("matrix product: no memory for the operands")
    return out


def _sum_of_rows(values: Tensor) -> Tensor:
    out = torch.empty(values.shape[1], dtype=torch.float32)
    call("sum_rows", *size_arguments(values), values, scratch(*values.shape), out)
    return out
