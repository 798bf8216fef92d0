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
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def matrix_ceiling(dtype: torch.dtype, device: torch.device = torch.device("cpu")) -> float:  # noqa: B008  (immutable)
    """Return the rate of F.linear in FLOP/s, the median of nine: 4096 x 384 to 1536 on a CPU, 8192 each on a GPU."""
    rows, width, inner = (4096, 384, 1536) if device.type == "cpu" else (8192, 8192, 8192)
    inputs = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(inner, width, device=device).to(dtype)
    bias = torch.zeros(inner, dtype=dtype, device=device)
    F.linear(inputs, weight, bias)
    seconds = []
    for _ in range(9):
        wait_for(device)
        begun = time.perf_counter()
        F.linear(inputs, weight, bias)
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * rows * width * inner / statistics.median(seconds)


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    return f"{named.get('model name', '?')}, family {named.get('cpu family', '?')}, model {named.get('model', '?')}"
