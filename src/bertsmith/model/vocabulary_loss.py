"""The masked-language-model loss without ever holding the logits of all masked positions."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.model import kernels
from bertsmith.model.blocks import factor_type

# Logits are made, used and thrown away in pieces of about so many numbers (32 MiB as float32).
_PIECE = 2**23


def vocabulary_loss(hidden: Tensor, embeddings: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross entropy of predicting ``labels`` from ``hidden``, and how many best guesses are right.

    The gradient is computed along with the loss, piece by piece, and only scaled in the backward pass: of the (M, V)
    logits one piece exists at a time. Under autocast the products are made in its type, the rest in float32.

    Args:
        hidden: (M, H), the transformed vectors of the masked positions.
        embeddings: (V, H), the projection's weights.
        bias: (V,).
        labels: (M,) int64, the original tokens.

    Returns:
        The loss, () float32 (nats), with a gradient for the first three arguments; the count, () int64.
    """
    dtype = factor_type(hidden)
    exact = bias.dtype == torch.float32 and not torch.compiler.is_compiling()
    if exact and kernels.multiplies(hidden, embeddings, dtype):
        pieces = _pieces(len(labels), len(bias), 2 * _PIECE if dtype == torch.bfloat16 else _PIECE)
        return kernels.vocabulary_loss(hidden.to(dtype), embeddings, bias, labels, pieces)
    loss, right = _VocabularyLoss.apply(hidden, embeddings, bias, labels, dtype)  # type: ignore[no-untyped-call]
    return loss, right


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, embeddings: Tensor, bias: Tensor, labels: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad)
        rows, weights = hidden.to(dtype), embeddings.to(dtype)
        loss = hidden.new_zeros((), dtype=torch.float32)
        right = labels.new_zeros(())
        if wanted:
            hidden_gradient = torch.empty_like(rows)
            weight_gradient = torch.zeros_like(embeddings)
            bias_gradient = torch.zeros_like(bias)
        with torch.autocast(hidden.device.type, enabled=False):
            for piece in _pieces(len(labels), len(bias), _PIECE):
                logits = F.linear(rows[piece], weights, bias.to(dtype)).float()
                best = logits.amax(1)
                asked = logits.gather(1, labels[piece, None])[:, 0]
                right += (asked == best).sum()
                shares = logits.sub_(best[:, None]).exp_()
                total = shares.sum(1)
                loss += (total.log() + best - asked).sum()
                if not wanted:
                    continue
                # The gradient of a row's loss by its logits: the shares, less 1 at the label.
                shares /= total[:, None]
                shares.scatter_add_(1, labels[piece, None], shares.new_full((len(total), 1), -1.0))
                bias_gradient += shares.sum(0)
                factors = shares.to(dtype)
                hidden_gradient[piece] = factors @ weights
                if dtype == weight_gradient.dtype:
                    weight_gradient.addmm_(factors.T, rows[piece])
                else:
                    weight_gradient += factors.T @ rows[piece]
        if wanted:
            ctx.gradients = (hidden_gradient.to(hidden.dtype), weight_gradient, bias_gradient)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the vocabulary loss was taken back twice; it keeps its gradients for one time only")
        return (*(gradient.mul_(loss_gradient) for gradient in gradients), None, None)


def _pieces(rows: int, width: int, most: int) -> list[slice]:
    """Cut ``rows`` rows of ``width`` numbers into nearly equal pieces of at most ``most`` numbers."""
    count = -(-rows * width // most)
    bounds = [number * rows // max(1, count) for number in range(count + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(bounds)]
