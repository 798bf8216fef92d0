"""What a layer does around its matrix products, in as few passes over memory as there can be.

On a CPU compiled kernels do it where there are some (`kernels`), otherwise torch's operators. Both compute the same;
their dropout draws different bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.model import kernels
from bertsmith.model.dropout import dropout as drop

# With fewer rows torch's products are as fast as the kernels', which lay out the weights for each product.
_LEAST_ROWS = 512


class Hidden(NamedTuple):
    """The tokens' vectors between layers, (T, H), twice.

    Attributes:
        exact: what is added to and normalised; float32, also where matrix products are made in a shorter type.
        factor: the same numbers as a matrix product takes them.
    """

    exact: Tensor
    factor: Tensor


def normalized(values: Tensor, norm: nn.LayerNorm, dropout: float = 0.0) -> Hidden:
    """Return dropout(norm(values)) of (T, H)."""
    if _compiled(values, values, norm.weight):
        return Hidden(*kernels.normalize(values, None, None, norm, factor_type(values), outside=dropout))
    out = drop(norm(values), dropout)
    return Hidden(out, out)


def residual_norm(residual: Tensor, inner: Tensor, linear: nn.Module, norm: nn.LayerNorm, dropout: float) -> Hidden:
    """Return norm(residual + dropout(linear(inner))): how both halves of a layer end.

    Args:
        residual: (T, H), a :class:`Hidden`'s exact vectors.
        inner: (T, I), what the half has come to.
        linear: from I to H.
        norm: over H.
        dropout: probability of dropping a value; 0 outside training.
    """
    if _compiled(residual, residual, norm.weight):
        x, bias = _product(inner, linear)
        return Hidden(*kernels.normalize(residual, x, bias, norm, x.dtype, inside=dropout))
    out = norm(residual + drop(linear(inner), dropout))
    return Hidden(out, out)


def activated(factor: Tensor, linear: nn.Module, name: str) -> Tensor:
    """Return the activation called ``name`` of linear(factor)."""
    if name == "gelu" and _compiled(factor):
        return kernels.gelu(*_product(factor, linear))
    return activate(linear(factor), name)


def activate(values: Tensor, name: str) -> Tensor:
    """Apply ``gelu`` (exact, by erf: the original's), ``gelu_new`` (its tanh approximation) or ``relu``."""
    if name == "relu":
        return F.relu(values)
    return F.gelu(values, approximate="tanh" if name == "gelu_new" else "none")


def linear(factor: Tensor, module: nn.Module) -> Tensor:
    """Return module(factor), for a linear layer."""
    if type(module) is nn.Linear:
        return _multiplied(factor, module.weight, module.bias)
    out: Tensor = module(factor)
    return out


def _product(factor: Tensor, module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Return linear(factor, module) in two parts: the kernels add a bias where they pass over memory anyway."""
    if type(module) is nn.Linear:
        return _multiplied(factor, module.weight, None), None if module.bias is None else module.bias.float()
    return module(factor), None


def _multiplied(factor: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dtype = factor_type(factor)
    if len(factor) >= _LEAST_ROWS and _compiled(factor, weight) and kernels.multiplies(factor, weight, dtype):
        return kernels.linear(factor.to(dtype), weight, bias)
    return F.linear(factor, weight, bias)


def factor_type(values: Tensor) -> torch.dtype:
    """Return the type in which matrix products of ``values`` are made."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def _compiled(values: Tensor, *exact: Tensor) -> bool:
    """Tell whether the kernels do it: on a CPU, products in float32 or bfloat16, and ``exact`` ones in float32.

    Under torch.compile torch's operators do, which it joins by itself.
    """
    return (
        factor_type(values) in (torch.float32, torch.bfloat16)
        and all(value.dtype == torch.float32 for value in exact)
        and not torch.compiler.is_compiling()
        and kernels.supports(values)
    )
