"""What a benchmark ran on, and how fast matrix products are there."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def describe(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return the machine and the versions of torch and ``packages`` (as they are imported), for a benchmark's JSON."""
    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "bfloat16_instructions": torch.cpu._is_avx512_bf16_supported(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": {name: version(name.replace("_", "-")) for name in sorted({"torch", *packages})},
        "threads": torch.get_num_threads(),
    }


def matrix_ceiling(dtype: torch.dtype, rows: int = 4096, width: int = 384, inner: int = 1536) -> float:
    """Return the rate of F.linear (rows x width to inner) in FLOP/s: the median of nine."""
    inputs, weight = torch.randn(rows, width).to(dtype), torch.randn(inner, width).to(dtype)
    bias = torch.zeros(inner, dtype=dtype)
    F.linear(inputs, weight, bias)
    seconds = []
    for _ in range(9):
        begun = time.perf_counter()
        F.linear(inputs, weight, bias)
        seconds.append(time.perf_counter() - begun)
    return 2 * rows * width * inner / statistics.median(seconds)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return f"{named.get('model name', '?')}, family {named.get('cpu family', '?')}, model {named.get('model', '?')}"
