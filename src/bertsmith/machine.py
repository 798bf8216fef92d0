"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use: its affinity, and its control groups' quotas if lower.

    Args:
        root: where proc and sys are.
    """
    return max(1, math.ceil(min([_visible(), *_quotas(root)])))


def limit_libraries(root: Path = Path("/")) -> None:
    """Tell libraries that start threads as they are imported (BLAS, Arrow) of a quota below what they would see.

    What the user has set stays.
    """
    quota = cpu_quota(root)
    if quota < _visible():
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))


def _visible() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs that each group of this process allows, from its own to the topmost one; none where it says none.

    In a container the own group's path may be that of the host, of which only the top is seen.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        own = Path(path.lstrip("/"))
        if not controllers:
            top, read = root / "sys/fs/cgroup", _second_version
        elif "cpu" in controllers.split(","):
            top, read = root / "sys/fs/cgroup" / controllers, _first_version
            top = top if top.is_dir() else root / "sys/fs/cgroup/cpu"
        else:
            continue
        for folder in (own, *own.parents):
            try:
                yield read(top / folder)
            except (OSError, ValueError):
                continue


def _second_version(group: Path) -> float:
    quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _first_version(group: Path) -> float:
    quota, period = (int((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period"))
    return math.inf if quota < 0 else quota / period
