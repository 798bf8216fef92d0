"""Where a run computes: device, threads, arithmetic."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import time
from contextlib import AbstractContextManager
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from bertsmith.errors import InputError
from bertsmith.machine import cpu_quota
from bertsmith.training.processes import local_gpu, local_share

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4

PrecisionChoice: TypeAlias = Literal["auto", "float32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is the first GPU, or the CPU where there is none.

    Raises:
        InputError: the name is unknown or the device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # Each process on a machine has a GPU of its own.
        device = torch.device("cuda", local_gpu()) if name == "cuda" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used here: {reason}") from None
    return device


def set_up_process(threads: int) -> int:
    """Give torch ``threads`` threads (0: this process's share of the quota), keep freed memory; return their number."""
    chosen = threads or local_share(cpu_quota())
    torch.set_num_threads(chosen)
    _keep_freed_memory()
    return chosen


def set_up_thread(threads: int) -> None:
    """Give the calling thread a number of torch threads of its own; those that compute already keep theirs."""
    # The first question makes torch give this thread the number of the process; only then it can have its own.
    torch.get_num_threads()
    torch.set_num_threads(threads)


def _keep_freed_memory() -> None:
    """Keep freed memory in the process: a stage makes tensors of the same sizes again and again.

    glibc gives large blocks back to the system as they are freed, and the system clears each page anew when it is
    touched, which took a seventh to a third of a training step. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def give_back_memory(device: torch.device) -> None:
    """Give freed memory back to the system and to the GPU, after a model that is no longer needed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def pick_precision(name: PrecisionChoice | Literal["float16"], device: torch.device, hidden_size: int) -> torch.dtype:
    """Return the matrix products' type; ``auto`` times a product of this width in both for a moment.

    bfloat16 on a processor without its instructions is several times slower than float32, so it is never
    taken for granted. A CUDA GPU is asked instead: a product of a small model takes it no longer in one type than
    in the other, and the flash attention that it can use with bfloat16 is not in the product. float16 works on a
    CPU too, slowly: to try it.

    Raises:
        InputError: the device has no float16 with a scaled loss.
    """
    if name == "float16" and device.type not in ("cuda", "cpu"):
        raise InputError(f"--precision float16 works on cuda, not on {device.type}; try bfloat16 or float32")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    usual = _time_product(torch.float32, device, hidden_size)
    # Converting weights and activations back and forth costs too: bfloat16 must win clearly.
    short = _time_product(torch.bfloat16, device, hidden_size, hopeless=2 * usual)
    return torch.bfloat16 if short < 0.7 * usual else torch.float32


def _time_product(dtype: torch.dtype, device: torch.device, hidden_size: int, hopeless: float = math.inf) -> float:
    """Return the seconds of the fastest of four products, or of two if neither was faster than ``hopeless``."""
    inputs = torch.ones(1024, hidden_size, dtype=dtype, device=device)
    weight = torch.ones(4 * hidden_size, hidden_size, dtype=dtype, device=device)
    best = math.inf
    for attempt in range(4):
        # Without the instructions bfloat16 takes ten times as long, which a wide model would wait seconds for.
        if attempt == 2 and best > hopeless:
            break
        start = time.perf_counter()
        F.linear(inputs, weight)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which matrix products run in ``dtype``; weights stay float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
