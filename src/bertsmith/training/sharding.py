"""Weights cut over the processes of a run: for models that one device cannot hold with their gradients and moments.

The engine is torch's ``fully_shard`` (FSDP2; Zhao et al. 2023): every process keeps a part of each weight, of its
gradient and of its moments; a layer's weights are gathered where they are used, and let go after it. Files do not know
of it: they hold whole tensors, written by the first process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bertsmith.config import OptimizerSettings
from bertsmith.errors import InputError
from bertsmith.training.processes import Processes

Model = TypeVar("Model", bound=nn.Module)


def is_wanted(settings: OptimizerSettings, processes: Processes) -> bool:
    """Tell whether the settings ask for sharding and there are processes to cut a model over."""
    return settings.sharding == "fsdp" and processes.size > 1


def is_sharded(model: nn.Module) -> bool:
    """Tell whether the model's weights are cut over processes, so that all have to take part in all it does."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes; every process must ask where it is cut."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard(model: Model, device: torch.device, processes: Processes) -> Model:
    """Cut the model over all processes and return it, on ``device``; each has a part of the first one's weights.

    The other processes' weights are not looked at: they may be on torch's ``meta`` device. Every Transformer layer is
    gathered by itself, what is around the layers together.

    Raises:
        InputError: there is no engine for this kind of device.
    """
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--sharding fsdp works on cuda and cpu, not on {device.type}")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if device.type == "cuda":
        torch.cuda.set_device(device)
    weights = dict(model.state_dict()) if processes.is_first else {}
    model.to("meta")
    mesh = init_device_mesh(device.type, (processes.size,))
    for layer in model.bert.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device=device)
    if hasattr(model, "losses"):
        register_fsdp_forward_method(model, "losses")
    fill(model, weights)
    return model


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model other weights, by the names of its ``state_dict``; of a sharded one the first process's count."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        return
    _gather_nothing(model)
    for name, parameter in model.named_parameters():
        given = weights.get(name)
        # Only the first process's numbers travel, the others' say the shape.
        values = torch.empty(parameter.shape) if given is None else given
        parameter.to_local().copy_(spread(values, parameter).to_local())  # type: ignore[attr-defined]


def spread(tensor: Tensor, like: Tensor) -> Any:
    """Return ``tensor`` on the device of ``like``, and cut as it is; where that is cut every process must ask."""
    values = tensor.to(like.device)
    if not hasattr(like, "full_tensor"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements)  # type: ignore[attr-defined]


def gathered(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Return all weights on the CPU, by name, or nothing where they are not to be kept; not always copies.

    Where the model is sharded every process must ask, and those that keep nothing hold one whole tensor at a time.
    """
    _gather_nothing(model)
    return gathered_tensors(model.state_dict(), keep=keep)


def gathered_tensors(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Return whole ``tensors`` as :func:`gathered` does those of a model."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu().contiguous()
    return found


def _gather_nothing(model: nn.Module) -> None:
    """Let go of weights that are still gathered: after an evaluation those around the layers are."""
    if hasattr(model, "reshard"):
        model.reshard()  # type: ignore[operator]
