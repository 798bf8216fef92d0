"""The compiled attention as a function with a gradient."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.build import library


def supports(values: Tensor) -> bool:
    """Tell whether the compiled attention takes ``values``: float32 or bfloat16 on a CPU, and it could be compiled."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.bfloat16) and library() is not None


def attend(
    query_key_value: Tensor, sequence_starts: Tensor, num_heads: int, dropout: float, left_to_right: bool = False
) -> Tensor:
    """Scaled dot-product attention within each sequence, by the compiled kernel.

    Sums and the softmax are float32 whatever the inputs' type. On processors that multiply bfloat16, weights and their
    gradients are rounded to it before they are multiplied again, if the inputs are bfloat16. What a sequence gets depends
    neither on the other sequences nor on the number of threads.

    Args:
        query_key_value: (T, 3H), the projections side by side; see :func:`supports`.
        sequence_starts: (N + 1,) int64 on the CPU.
        num_heads: A; each head is H / A wide.
        dropout: probability of dropping an attention weight, the nearest multiple of 1/65,536 below 1; drawn from
            torch's generator.
        left_to_right: a token sees itself and those before it only.

    Returns:
        (T, H), the heads side by side.

    Raises:
        MemoryError: there was none for a thread's scores.
    """
    seed = int(torch.randint(2**62, ()).item()) if dropout else 0
    if torch.is_grad_enabled() and query_key_value.requires_grad:
        out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
            query_key_value, sequence_starts, num_heads, dropout, seed, left_to_right
        )
        return out
    return _forward(query_key_value, sequence_starts, (num_heads, dropout, seed, left_to_right), None)


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
        log_sums = torch.empty(heads, projected.shape[0], dtype=torch.float32)
        ctx.kind = (heads, dropout, seed, left_to_right)
        out = _forward(projected, starts, ctx.kind, log_sums)
        ctx.save_for_backward(projected, out, log_sums, starts)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        projected, out, log_sums, starts = ctx.saved_tensors
        received = out_gradient.to(out.dtype).contiguous()
        gradient = torch.empty_like(projected)
        failed = _call(
            "attention_backward",
            *map(_pointer, (projected, out, log_sums, received)),
            *_described(projected, starts, *ctx.kind),
            _pointer(gradient),
        )
        if failed:
            raise MemoryError("attention: no memory for the scores' gradients")
        return gradient, None, None, None, None, None


_Kind = tuple[int, float, int, bool]  # heads, dropout, seed, left to right


def _forward(query_key_value: Tensor, starts: Tensor, kind: _Kind, log_sums: Tensor | None) -> Tensor:
    """Return the contexts (T, H); ``log_sums`` (heads, T) gets what the backward pass needs."""
    projected = query_key_value.contiguous()
    out = projected.new_empty(projected.shape[0], projected.shape[1] // 3)
    described = _described(projected, starts, *kind)
    kept = None if log_sums is None else _pointer(log_sums)
    if _call("attention_forward", _pointer(projected), *described, _pointer(out), kept):
        raise MemoryError("attention: no memory for the scores")
    return out


def _described(
    projected: Tensor, starts: Tensor, heads: int, dropout: float, seed: int, left_to_right: bool
) -> tuple[Any, ...]:
    """Return what the kernel is told of the sequences, the sizes, the type and the dropout.

    The dropout is a threshold below which 16 random bits drop a weight, and the factor of the others.
    """
    threshold = min(round(dropout * 2**16), 2**16 - 1)
    return (
        _pointer(starts),
        ctypes.c_int64(len(starts) - 1),
        heads,
        projected.shape[1] // 3,
        int(left_to_right),
        int(projected.dtype == torch.bfloat16),
        ctypes.c_uint32(threshold),
        ctypes.c_float(1 / (1 - threshold / 2**16)),
        ctypes.c_uint64(seed),
    )


def _call(name: str, *arguments: Any) -> int:
    function = getattr(library(), name)
    return int(function(*arguments, torch.get_num_threads()))


def _pointer(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())
