"""AdamW as the paper uses it: decay on weights only, bias correction, a clipped gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import nn

from bertsmith.config import OptimizerSettings
from bertsmith.task_config import FinetuneSettings
from bertsmith.training.sharding import is_sharded, whole


class AdamW(torch.optim.AdamW):
    """torch's AdamW, its methods without the decorators that import torch's compiler.

    That takes a second before the first step, and nothing is compiled here. The arithmetic is the same.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> AdamW:
    """Return AdamW over all parameters; biases and layer norms (every vector) are not decayed.

    The learning rate is set before each step by the loop.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=0.0, betas=(0.9, settings.adam_beta2), eps=1e-6, fused=True)


def make_finetuning_optimizer(model: nn.Module, settings: FinetuneSettings) -> AdamW:
    """Return AdamW for a model, the lower layers of a ``bert`` inside it slower or frozen as the settings say.

    With ``layer_decay`` d the output layer learns at the full rate, the top layer at d, the one below at d^2 and
    so on down to the embeddings. Frozen parameters no longer ask for gradients.
    """
    depth: int = len(model.bert.layers) if hasattr(model, "bert") else 0  # type: ignore[arg-type, union-attr]
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        height = _height(name, depth)
        if settings.freeze_layers and height < settings.freeze_layers:
            parameter.requires_grad_(False)
        else:
            groups.setdefault((height, parameter.ndim > 1), []).append(parameter)
    return AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if is_matrix else 0.0,
                "scale": settings.layer_decay ** (depth - height),
            }
            for (height, is_matrix), parameters in groups.items()
        ],
        lr=0.0,
        betas=(0.9, settings.adam_beta2),
        eps=1e-6,
        fused=True,
    )


def _height(name: str, depth: int) -> int:
    """Return -1 for the embeddings, a layer's number, or the number of layers for what stands above them."""
    if name.startswith("bert.embeddings."):
        return -1
    return int(name.split(".")[2]) if name.startswith("bert.layers.") else depth


def _always(grad_norm: float) -> bool:
    return True


def apply_gradients(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    max_grad_norm: float,
    accept: Callable[[float], bool] = _always,
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """Clip the gradients to a global norm, make one step, clear them; return the norm before clipping.

    Where ``accept`` refuses the norm, neither weights nor moments change. Gradients of a loss that was scaled are first
    scaled back by its ``scaler``.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    total = nn.utils.get_total_norm([parameter.grad for parameter in parameters])  # type: ignore[misc]
    norm = float(whole(total))
    if accept(norm):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("scale", 1.0)
        excess = (norm + 1e-6) / max_grad_norm
        if excess > 1 and (is_sharded(model) or not optimizer.defaults.get("fused")):
            nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, total)
        elif excess > 1:
            # The fused step divides by it where it reads the gradients anyway.
            optimizer.grad_scale = total.new_tensor(excess)  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.zero_grad(set_to_none=True)
    return norm
