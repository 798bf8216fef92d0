"""The compiled layer norm of a residual sum as a function with a gradient."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.model.kernels.calling import DrawnDropout, call, draw, scratch, size_arguments


def normalize(
    residual: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    norm: nn.LayerNorm,
    dtype: torch.dtype,
    inside: float = 0.0,
    outside: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return dropout(norm(residual + dropout(x + bias))), once in float32 and once in ``dtype``.

    Args:
        residual: (T, H) float32.
        x: (T, H) of type ``dtype``; None to normalise the residual alone.
        bias: (H,) float32; None if there is none or x has it already.
        norm: its weight and bias are float32.
        dtype: float32, for which both results share their memory, or bfloat16.
        inside: probability of dropping a value of x + bias.
        outside: probability of dropping a value of the result.
    """
    given = residual.contiguous(), None if x is None else x.contiguous(), bias
    values = (*given, norm.weight, norm.bias, norm.eps, dtype, draw(inside), draw(outside))
    if not torch.is_grad_enabled():
        return _forward(*values)[:2]
    exact, copy = _Norm.apply(*values)  # type: ignore[no-untyped-call]
    return exact, copy


def _forward(
    residual: Tensor,
    x: Tensor | None,
    bias: Tensor | None,
    weight: Tensor,
    shift: Tensor,
    epsilon: float,
    dtype: torch.dtype,
    inside: DrawnDropout,
    outside: DrawnDropout,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what :func:`normalize` returns, of contiguous tensors, and each row's mean and factor, (T,)."""
    out = torch.empty_like(residual)
    copy = out.detach() if dtype == out.dtype else torch.empty_like(residual, dtype=dtype)
    rows, width = residual.shape
    means, scales = residual.new_empty(rows), residual.new_empty(rows)
    call(
        "norm_forward",
        *(*size_arguments(copy), residual, x, bias, weight, *inside.arguments, *outside.arguments, shift),
        *(ctypes.c_float(epsilon), out, None if dtype == out.dtype else copy, means, scales),
        scratch(rows, width),
    )
    return out, copy, means, scales


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *values: Any) -> tuple[Tensor, Tensor]:
        residual, x, bias, weight, *_, inside, outside = values
        out, copy, means, scales = _forward(*values)
        ctx.save_for_backward(residual, x, bias, weight, means, scales)
        ctx.sizes, ctx.dropouts = size_arguments(copy), (*inside.arguments, *outside.arguments)
        ctx.set_materialize_grads(False)
        return out, copy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor | None, copy_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        residual, x, bias, weight, means, scales = ctx.saved_tensors
        rows, width = residual.shape
        received = [None if gradient is None else gradient.contiguous() for gradient in (out_gradient, copy_gradient)]
        residual_gradient = torch.empty_like(residual) if ctx.needs_input_grad[0] else None
        x_gradient = None if x is None else torch.empty_like(x)
        vectors = residual.new_empty(3, width)
        call(
            "norm_backward",
            *(*ctx.sizes, residual, x, bias, weight, *ctx.dropouts, means, scales, *received),
            *(residual_gradient, x_gradient, vectors, scratch(rows, 5 * width)),
        )
        weight_gradient, shift_gradient, bias_gradient = vectors.unbind(0)
        return (
            *(residual_gradient, x_gradient, None if bias is None else bias_gradient, weight_gradient, shift_gradient),
            *(None, None, None, None),
        )
