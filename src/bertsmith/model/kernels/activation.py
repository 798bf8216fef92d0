"""The compiled GELU as a function with a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.calling import call, scratch, size_arguments


def gelu(x: Tensor, bias: Tensor | None) -> Tensor:
    """Return the exact GELU of x + bias.

    Args:
        x: (T, I), float32 or bfloat16.
        bias: (I,) float32; None if x has it already.

    Returns:
        (T, I) of x's type.
    """
    if not torch.is_grad_enabled():
        return _forward(x.contiguous(), bias)
    out: Tensor = _Gelu.apply(x, bias)  # type: ignore[no-untyped-call]
    return out


def _forward(x: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    call("gelu_forward", *size_arguments(x), x, bias, out)
    return out


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        out = _forward(x, bias)
        ctx.save_for_backward(x, bias)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, bias = ctx.saved_tensors
        rows, width = x.shape
        x_gradient, bias_gradient = torch.empty_like(x), torch.empty(width)
        received = out_gradient.contiguous()
        call("gelu_backward", *size_arguments(x), x, bias, received, x_gradient, bias_gradient, scratch(rows, width))
        return x_gradient, None if bias is None else bias_gradient
