"""An encoder that is only used: weights laid out once as the processor's matrix products read them.

A product over a few rows, such as one sentence's, otherwise spends a good part of its time on laying out the weights
anew. Only on a CPU, and only where torch has been built with oneDNN; elsewhere layers stay as they are.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from bertsmith.model.bert import Bert

# The layout depends a little on the rows of a product; this many stand between one sentence and a full batch.
_ROWS = 64

# Two caches keep a compiled product, up to a megabyte, for every number of rows that they meet: a thousand in each, if
# nobody tells them. Batches hardly ever have the same number, so that is a gigabyte for nothing; single sentences do.
_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
_CACHED = 256


class FixedLinear(nn.Module):
    """A linear layer whose weights are laid out for products and cannot be trained any more."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype).contiguous(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, values: Tensor) -> Tensor:
        """Return (T, out) in the layer's type for (T, in) of any floating type."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.default(
            values.to(self._dtype), self._weight, self._bias, "none", [], ""
        )
        return out


def fix_weights(bert: Bert, dtype: torch.dtype) -> bool:
    """Prepare an encoder on a CPU for inference, in place: it can't be trained or saved any more.

    Args:
        bert: in evaluation mode; stays as it is on another device, or where torch can't lay out weights.
        dtype: of the layers' products, float32 or bfloat16. What the encoder returns is float32 in either case.

    Returns:
        Whether it was done.
    """
    for cache in _CACHES:
        # Read when the first product is made.
        os.environ.setdefault(cache, str(_CACHED))
    if bert.embeddings.token.weight.device.type != "cpu" or not _can_lay_out(dtype):
        return False
    for layer in bert.layers:
        for name, child in layer.named_children():
            if isinstance(child, nn.Linear):
                setattr(layer, name, FixedLinear(child, dtype))
    return True


def _can_lay_out(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    weight = torch.zeros(16, 16, dtype=dtype)
    try:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        torch.ops.mkldnn._linear_pointwise(weight, laid_out, None, "none", [], "")
    # torch promises nothing about these operators, and says differently on every platform that they are missing.
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return True
