"""The masked-language-model loss by compiled kernels: see `bertsmith.model.vocabulary_loss`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.calling import call, scratch, size_arguments
from bertsmith.model.kernels.products import product, weight_gradient


def vocabulary_loss(
    rows: Tensor, embeddings: Tensor, bias: Tensor, labels: Tensor, pieces: Sequence[slice]
) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy and the number of right guesses of ``rows`` (M, H), float32 or bfloat16.

    Args:
        rows: cut into ``pieces`` of at least six.
        embeddings: (V, H) float32.
        bias: (V,) float32.
        labels: (M,) int64.
        pieces: of which the logits exist at a time.

    Raises:
        IndexError: a label is no entry.
    """
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(bias):
        raise IndexError(f"labels from {int(labels.min())} to {int(labels.max())} of {len(bias)} entries")
    loss, right = _Loss.apply(rows, embeddings, bias, labels, pieces)  # type: ignore[no-untyped-call]
    return loss, right


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, embeddings: Tensor, bias: Tensor, labels: Tensor, pieces: Sequence[slice]
    ) -> tuple[Tensor, Tensor]:
        rows, embeddings, wanted = rows.contiguous(), embeddings.contiguous(), any(ctx.needs_input_grad)
        losses, right = torch.empty(len(rows), dtype=torch.float32), torch.empty_like(labels)
        rows_gradient = torch.empty_like(rows, dtype=torch.float32) if wanted else None
        bias_gradient = torch.zeros_like(bias) if wanted else None
        sums = None
        for piece in pieces:
            logits = product(rows[piece], embeddings, True, None)
            _look(logits, bias, labels[piece], losses[piece], right[piece], bias_gradient)
            if rows_gradient is None:
                continue
            rows_gradient[piece] = product(logits, embeddings, False, None)
            # The last piece waits for the backward pass: the loss's factor then costs no pass over its gradient.
            if piece != pieces[-1]:
                sums = _added(sums, logits, rows[piece], embeddings)
        if rows_gradient is not None:
            ctx.save_for_backward(embeddings)
            ctx.found = (rows_gradient, bias_gradient, sums, logits, rows[pieces[-1]])
            ctx.dtype = rows.dtype
        ctx.mark_non_differentiable(right)
        return losses.sum(), right.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (embeddings,), found, ctx.found = ctx.saved_tensors, ctx.found, None
        if found is None:
            raise RuntimeError("the vocabulary loss was taken back twice; it keeps its gradients for one time only")
        rows_gradient, bias_gradient, sums, gradient, rows = found
        factor = float(loss_gradient)
        if sums is not None:
            sums *= factor
        return (
            (rows_gradient * factor).to(ctx.dtype),
            _added(sums, gradient, rows, embeddings, factor) if ctx.needs_input_grad[1] else None,
            bias_gradient * factor,
            None,
            None,
        )


def _look(
    logits: Tensor, bias: Tensor, labels: Tensor, losses: Tensor, right: Tensor, bias_gradient: Tensor | None
) -> None:
    """Fill in losses and right guesses; with ``bias_gradient``, add to it and make ``logits`` the loss's gradient."""
    rows, width = logits.shape
    found = None if bias_gradient is None else torch.empty_like(bias_gradient)
    given = (logits, bias, labels.contiguous(), losses, right, found, scratch(rows, 2 * width))
    call("cross_entropy", *size_arguments(logits), *given)
    if bias_gradient is not None and found is not None:
        bias_gradient += found


def _added(sums: Tensor | None, gradient: Tensor, rows: Tensor, weights: Tensor, factor: float = 1.0) -> Tensor:
    """Return the ``sums`` so far, if there are any, and factor gradient^T rows."""
    out = torch.empty_like(weights) if sums is None else sums
    return weight_gradient(gradient, rows, out, factor, accumulate=sums is not None)
