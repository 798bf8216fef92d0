"""torch's flash attention over packed sequences, for GPUs (Dao 2023): no padding, no scores in memory."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# Of flash attention: the widest head, and what a head's width must be a multiple of.
_WIDEST = 256
_MULTIPLE = 8
# The first generation of GPUs that its kernels are written for (Ampere).
_CAPABILITY = (8, 0)


def supports(query_key_value: Tensor, num_heads: int) -> bool:
    """Tell whether flash attention takes the projections (T, 3H): half precision on a newer GPU."""
    width = query_key_value.shape[1] // 3 // num_heads
    return (
        query_key_value.dtype in (torch.float16, torch.bfloat16)
        and width <= _WIDEST
        and width % _MULTIPLE == 0
        and is_there(query_key_value.device)
    )


@cache
def is_there(device: torch.device) -> bool:
    """Tell whether this torch has flash attention for packed sequences, and the device can run it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return True


def attend(
    query_key_value: Tensor,
    sequence_starts: Tensor,
    longest: int,
    num_heads: int,
    dropout: float = 0.0,
    left_to_right: bool = False,
) -> Tensor:
    """Scaled dot-product attention within each sequence.

    Args:
        query_key_value: (T, 3H), the projections side by side; see :func:`supports`.
        sequence_starts: (N + 1,) int32 on the same device.
        longest: tokens of the longest sequence.
        num_heads: A; each head is H / A wide.
        dropout: probability of dropping an attention weight; 0 outside training.
        left_to_right: a token sees itself and those before it only.

    Returns:
        (T, H), the heads side by side.
    """
    tokens, hidden_size = query_key_value.shape[0], query_key_value.shape[1] // 3
    query, key, value = query_key_value.view(tokens, 3, num_heads, hidden_size // num_heads).unbind(1)
    if dropout:
        out = _with_dropout(query, key, value, sequence_starts, longest, dropout, left_to_right)
    else:
        out = _without_dropout(query, key, value, sequence_starts, longest, left_to_right)
    return out.reshape(tokens, hidden_size)


def _without_dropout(
    query: Tensor, key: Tensor, value: Tensor, sequence_starts: Tensor, longest: int, left_to_right: bool
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if left_to_right else (-1, -1)
    out = varlen_attn(query, key, value, sequence_starts, sequence_starts, longest, longest, window_size=window)
    assert isinstance(out, Tensor)
    return out


def _with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequence_starts: Tensor,
    longest: int,
    dropout: float,
    left_to_right: bool,
) -> Tensor:
    """Call the kernel itself: torch's function for packed sequences leaves its dropout out."""
    out: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, sequence_starts, sequence_starts, longest, longest, dropout, left_to_right, False
    )[0]
    return out
