"""The compiled attention as a function with a gradient."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.build import library


def attend(
    query_key_value: Tensor, sequence_starts: Tensor, num_heads: int, dropout: float, left_to_right: bool = False
) -> Tensor:
    """Scaled dot-product attention within each sequence, by the compiled kernel.

    The numbers are computed in float32 whatever the inputs' type. What a sequence gets depends neither on the other
    sequences nor on the number of threads.

    Args:
        query_key_value: (T, 3H), the projections side by side; see :func:`supports`.
        sequence_starts: (N + 1,) int64 on the CPU.
        num_heads: A; each head is H / A wide.
        dropout: probability of dropping an attention weight, as a multiple of 2^-32; drawn from torch's generator.
        left_to_right: a token sees itself and those before it only.

    Returns:
        (T, H), the heads side by side.

    Raises:
        MemoryError: there was none for a thread's scores.
    """
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query_key_value, sequence_starts, num_heads, dropout, seed, left_to_right
    )
    return out


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
        tokens, hidden_size = projected.shape[0], projected.shape[1] // 3
        out = projected.new_empty(tokens, hidden_size)
        log_sums = torch.empty(heads, tokens, dtype=torch.float32)
        sizes = (_pointer(starts), ctypes.c_int64(len(starts) - 1), heads, hidden_size)
        kind = (int(left_to_right), int(projected.dtype == torch.bfloat16), *_dropout(dropout, seed))
        failed = _call("attention_forward", _pointer(projected), *sizes, *kind, _pointer(out), _pointer(log_sums))
        if failed:
            raise MemoryError("attention: no memory for the scores")
        ctx.save_for_backward(projected, out, log_sums, starts)
        ctx.sizes, ctx.kind = sizes, kind
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, out, log_sums, _ = ctx.saved_tensors
        received = out_gradient.to(out.dtype).contiguous()
        gradient = torch.empty_like(projected)
        failed = _call(
            "attention_backward",
            *map(_pointer, (projected, out, log_sums, received)),
            *ctx.sizes,
            *ctx.kind,
            _pointer(gradient),
        )
        if failed:
            raise MemoryError("attention: no memory for the scores' gradients")
        return gradient, None, None, None, None, None


def _call(name: str, *arguments: Any) -> int:
    function = getattr(library(), name)
    return int(function(*arguments, torch.get_num_threads()))


def _pointer(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())


def _dropout(probability: float, seed: int) -> tuple[ctypes.c_uint32, ctypes.c_float, ctypes.c_uint64]:
    """Return the threshold below which 32 random bits drop a weight, the factor of the others, and the seed."""
    threshold = min(round(probability * 2**32), 2**32 - 1)
    return ctypes.c_uint32(threshold), ctypes.c_float(1 / (1 - threshold / 2**32)), ctypes.c_uint64(seed)
