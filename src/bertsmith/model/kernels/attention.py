"""The compiled attention as a function with a gradient."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.calling import call


def attend(
    query_key_value: Tensor, sequence_starts: Tensor, num_heads: int, dropout: float, left_to_right: bool = False
) -> Tensor:
    """Scaled dot-product attention within each sequence, by the compiled kernel.

    Sums and the softmax are float32 whatever the inputs' type. On processors that multiply bfloat16, weights and the
    gradients of scores are rounded to it before they are multiplied again, if the inputs are bfloat16. What a sequence
    gets depends neither on the other sequences nor on the number of threads.

    Args:
        query_key_value: (T, 3H), the projections side by side; see :func:`supports`.
        sequence_starts: (N + 1,) int64 on the CPU.
        num_heads: A; each head is H / A wide.
        dropout: probability of dropping an attention weight, as a multiple of 2^-16; drawn from torch's generator.
        left_to_right: a token sees itself and those before it only.

    Returns:
        (T, H), the heads side by side.

    Raises:
        MemoryError: there was none for a thread's scores.
    """
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    values = (query_key_value, sequence_starts, num_heads, dropout, seed, left_to_right)
    if not torch.is_grad_enabled():
        return _forward(*values)[0]
    out: Tensor = _Attention.apply(*values)  # type: ignore[no-untyped-call]
    return out


def _forward(
    query_key_value: Tensor, starts: Tensor, heads: int, dropout: float, seed: int, left_to_right: bool
) -> tuple[Tensor, Tensor]:
    """Return what :func:`attend` returns, and the logarithm of each query's sum, (A, T) float32."""
    projected = query_key_value.contiguous()
    tokens, hidden_size = projected.shape[0], projected.shape[1] // 3
    out = projected.new_empty(tokens, hidden_size)
    log_sums = torch.empty(heads, tokens, dtype=torch.float32)
    sizes, kind = _arguments(projected, starts, heads, dropout, seed, left_to_right)
    if call("attention_forward", projected, starts, *sizes, *kind, out, log_sums):
        raise MemoryError("attention: no memory for the scores")
    return out, log_sums


def _arguments(
    projected: Tensor, starts: Tensor, heads: int, dropout: float, seed: int, left_to_right: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return sizes and kind as both kernels take them."""
    sizes = (ctypes.c_int64(len(starts) - 1), heads, projected.shape[1] // 3)
    return sizes, (int(left_to_right), int(projected.dtype == torch.bfloat16), *_dropout(dropout, seed))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_key_value: Tensor,
        starts: Tensor,
        heads: int,
        dropout: float,
        seed: int,
        left_to_right: bool,
    ) -> Tensor:
        projected = query_key_value.contiguous()
        out, log_sums = _forward(projected, starts, heads, dropout, seed, left_to_right)
        ctx.save_for_backward(projected, out, log_sums, starts)
        ctx.sizes, ctx.kind = _arguments(projected, starts, heads, dropout, seed, left_to_right)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, out, log_sums, starts = ctx.saved_tensors
        received = out_gradient.to(out.dtype).contiguous()
        gradient = torch.empty_like(projected)
        given = (projected, out, log_sums, received, starts)
        if call("attention_backward", *given, *ctx.sizes, *ctx.kind, gradient):
            raise MemoryError("attention: no memory for the scores' gradients")
        return gradient, None, None, None, None, None


def _dropout(probability: float, seed: int) -> tuple[ctypes.c_uint32, ctypes.c_float, ctypes.c_uint64]:
    """Return the threshold below which 16 random bits drop a weight, the factor of the others, and the seed."""
    threshold = min(round(probability * 2**16), 2**16 - 1)
    return ctypes.c_uint32(threshold), ctypes.c_float(1 / (1 - threshold / 2**16)), ctypes.c_uint64(seed)
