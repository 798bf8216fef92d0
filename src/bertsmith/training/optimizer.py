"""AdamW as the paper uses it: decay on weights only, bias correction, a clipped gradient."""

from __future__ import annotations

import torch
from torch import nn

from bertsmith.config import OptimizerSettings


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return AdamW over all parameters; biases and layer norms (every vector) are not decayed.

    The learning rate is set before each step by the loop.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, settings.adam_beta2), eps=1e-6, fused=True)


def apply_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, learning_rate: float, max_grad_norm: float
) -> float:
    """Clip the gradients to a global norm, make one step, clear them; return the norm before clipping."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
