"""Attention over packed sequences: no token sees another sequence, and next to no padding is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.model import flash, kernels
from bertsmith.model.dropout import dropout as drop

# A bucket ends where a sequence is shorter than this share of the bucket's longest, provided the bucket
# already holds enough sequences to be worth a kernel call of its own.
_BUCKET_FILL = 0.8
_BUCKET_MIN_SEQUENCES = 4


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, as a small padded rectangle.

    Attributes:
        sequences: n.
        length: L, the longest of them.
        key_mask: (n, 1, 1, L) bool, true where a real token stands; None if all cells are real.
    """

    sequences: int
    length: int
    key_mask: Tensor | None


@dataclass(frozen=True)
class Rectangles:
    """Where a batch's tokens stand in its buckets.

    Attributes:
        buckets: the sequences by similar length.
        index: (cells,) int64, for each cell of the rectangles, laid end to end, the token of the batch that stands in
            it; cells beyond a sequence's end repeat its first token and are masked as keys.
        unpack: (T,) int64, for each token of the batch its cell in the buckets' outputs laid end to end.
    """

    buckets: tuple[Bucket, ...]
    index: Tensor
    unpack: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """How a batch's sequences are laid out for attention; made once a batch and used by every layer.

    Attributes:
        given: (N + 1,) int64, where the sequences start, on the batch's device.
        device: where the batch is.
        left_to_right: a token sees itself and those before it only.
        longest: tokens of the longest sequence.
    """

    given: Tensor
    device: torch.device
    left_to_right: bool
    longest: int

    @cached_property
    def sequence_starts(self) -> Tensor:
        """(N + 1,) int64 on the CPU."""
        return self.given.cpu().contiguous()

    @cached_property
    def starts_on_device(self) -> Tensor:
        """(N + 1,) int32 on the batch's device, which then need not be asked for anything."""
        return self.given.to(self.device, torch.int32)

    @cached_property
    def rectangles(self) -> Rectangles:
        """The sequences in rectangles; made when torch's operators need them, since the kernel does not."""
        return _lay_out(self.sequence_starts, self.device)


def plan_attention(
    sequence_starts: Tensor, device: torch.device, left_to_right: bool = False, longest: int | None = None
) -> AttentionPlan:
    """Return the plan for the sequences ``sequence_starts`` (N + 1,) of a batch on ``device``.

    The length of the ``longest`` one is counted where it is not given.
    """
    return AttentionPlan(
        sequence_starts, device, left_to_right, int(sequence_starts.diff().max()) if longest is None else longest
    )


def packed_attention(query_key_value: Tensor, plan: AttentionPlan, num_heads: int, dropout: float) -> Tensor:
    """Scaled dot-product attention within each sequence (Vaswani et al. 2017, section 3.2.1).

    On a CPU a compiled kernel does it where there is one (`kernels`), on a newer GPU in half precision torch's flash
    attention (`flash`), otherwise torch's operators over rectangles. All compute the same; their dropout draws other
    bits.

    Args:
        query_key_value: (T, 3H), the projections side by side.
        plan: the batch's layout.
        num_heads: A; each head is H / A wide.
        dropout: probability of dropping an attention weight; 0 outside training.

    Returns:
        (T, H), the heads side by side.
    """
    if kernels.supports(query_key_value):
        return kernels.attend(query_key_value, plan.sequence_starts, num_heads, dropout, plan.left_to_right)
    if flash.supports(query_key_value, num_heads):
        return flash.attend(
            query_key_value, plan.starts_on_device, plan.longest, num_heads, dropout, plan.left_to_right
        )
    return attend_in_rectangles(query_key_value, plan.rectangles, num_heads, dropout, plan.left_to_right)


def attend_in_rectangles(
    query_key_value: Tensor, layout: Rectangles, num_heads: int, dropout: float, left_to_right: bool = False
) -> Tensor:
    """Do what :func:`packed_attention` does with torch's operators, on any device and in any type."""
    hidden_size = query_key_value.shape[1] // 3
    # One gather for all buckets: each of its own would write a whole (T, 3H) of zeros in the backward pass.
    cells = query_key_value.index_select(0, layout.index)
    sizes = [bucket.sequences * bucket.length for bucket in layout.buckets]
    outputs = []
    for bucket, part in zip(layout.buckets, torch.split(cells, sizes), strict=True):
        rectangle = part.view(-1, bucket.length, 3, num_heads, hidden_size // num_heads)
        query, key, value = rectangle.permute(2, 0, 3, 1, 4).unbind(0)  # each (n, A, L, H / A)
        mask = bucket.key_mask
        if left_to_right:
            before = torch.ones(bucket.length, bucket.length, dtype=torch.bool, device=query.device).tril()
            mask = before if mask is None else mask & before
        context = _attend(query, key, value, mask, dropout)
        outputs.append(context.transpose(1, 2).reshape(-1, hidden_size))
    return torch.cat(outputs).index_select(0, layout.unpack)


def _lay_out(starts: Tensor, device: torch.device) -> Rectangles:
    """Group sequences into buckets of similar length."""
    lengths = starts[1:] - starts[:-1]
    order = torch.argsort(lengths, descending=True, stable=True)
    buckets: list[Bucket] = []
    indices: list[Tensor] = []
    unpack = torch.empty(int(starts[-1]), dtype=torch.int64)
    cells_before = first = 0
    while first < len(order):
        longest = int(lengths[order[first]])
        long_enough = int((lengths[order] >= _BUCKET_FILL * longest).sum())
        last = min(len(order), max(long_enough, first + _BUCKET_MIN_SEQUENCES))
        members = order[first:last]
        columns = torch.arange(longest)
        real = columns < lengths[members, None]  # (n, L)
        index = starts[members, None] + columns * real
        cells = cells_before + torch.arange(index.numel()).view_as(index)
        unpack[index[real]] = cells[real]
        mask = None if bool(real.all()) else real[:, None, None, :].to(device)
        buckets.append(Bucket(len(members), longest, mask))
        indices.append(index.flatten())
        cells_before += index.numel()
        first = last
    return Rectangles(tuple(buckets), torch.cat(indices).to(device), unpack.to(device))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return (n, A, L, H / A): the values weighted by softmax(Q K^T / sqrt(H / A)) where ``mask`` is true."""
    if dropout == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    # With dropout torch has no fast kernel for the CPU and writes the same steps out, with its slower dropout.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return drop(scores.softmax(-1), dropout) @ value
