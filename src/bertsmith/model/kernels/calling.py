"""How Python calls the compiled kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bertsmith.model.kernels.build import library

# Sums over rows are made in blocks of so many rows; the same in vectors.h.
BLOCK_ROWS = 64


def supports(values: Tensor) -> bool:
    """Tell whether the compiled kernels take ``values``: float32 or bfloat16 on a CPU, and they could be compiled."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.bfloat16) and library() is not None


def call(name: str, *arguments: Any) -> int:
    """Call a kernel with ``arguments`` and the number of threads; tensors are given by their address, None as null."""
    given = [_pointer(value) if value is None or isinstance(value, Tensor) else value for value in arguments]
    return int(getattr(library(), name)(*given, torch.get_num_threads()))


def _pointer(values: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if values is None else values.data_ptr())


def size_arguments(values: Tensor) -> tuple[int, ctypes.c_int64, int]:
    """Return whether ``values`` (rows, width) are bfloat16, and their sizes."""
    rows, width = values.shape
    return int(values.dtype == torch.bfloat16), ctypes.c_int64(rows), width


def scratch(rows: int, width: int) -> Tensor:
    """Return float32 memory for ``width`` numbers a block of rows."""
    return torch.empty(-(-rows // BLOCK_ROWS) * width, dtype=torch.float32)


@dataclass(frozen=True)
class DrawnDropout:
    """Dropout whose bits are settled.

    Attributes:
        probability: of dropping a value, as a multiple of 2^-32.
        seed: what the bits are a function of, with a value's place.
    """

    probability: float = 0.0
    seed: int = 0

    @property
    def arguments(self) -> tuple[ctypes.c_uint32, ctypes.c_float, ctypes.c_uint64]:
        """The threshold below which 32 random bits drop a value, the factor of the others, and the seed."""
        threshold = min(round(self.probability * 2**32), 2**32 - 1)
        return ctypes.c_uint32(threshold), ctypes.c_float(1 / (1 - threshold / 2**32)), ctypes.c_uint64(self.seed)


def draw(probability: float) -> DrawnDropout:
    """Take a seed from torch's generator, if anything is to be dropped."""
    return DrawnDropout(probability, int(torch.randint(2**62, ()).item())) if probability else DrawnDropout()
