"""Threads follow the control group's quota, of either version and wherever in the tree it is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bertsmith import machine
from bertsmith.machine import cpu_quota, limit_libraries


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Room for a machine of 64 processors."""
    monkeypatch.setattr(machine, "_visible", lambda: 64)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def write(root: Path, cgroup: str, **values: str) -> None:
    """Write what the kernel says: the process's groups, and files by their path below sys/fs/cgroup."""
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, value in values.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)


def test_without_groups(root: Path) -> None:
    assert cpu_quota(root) == 64


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [("max 100000", "max 100000", 64), ("250000 100000", "max 100000", 3), ("max 100000", "400000 100000", 4),
     ("800000 100000", "50000 100000", 1), ("nonsense", "200000 100000", 2)],
)  # fmt: skip
def test_the_second_version(root: Path, own: str, above: str, expected: int) -> None:
    write(root, "0::/jobs/mine\n", **{"jobs/mine/cpu.max": own, "jobs/cpu.max": above})
    assert cpu_quota(root) == expected


def test_the_second_version_in_a_container(root: Path) -> None:
    """The top alone is seen, while the path is the host's."""
    write(root, "0::/system.slice/docker-1234.scope\n", **{"cpu.max": "200000 100000"})
    assert cpu_quota(root) == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_the_first_version(root: Path, folder: str) -> None:
    files = {f"{folder}/jobs/cpu.cfs_quota_us": "-1", f"{folder}/jobs/cpu.cfs_period_us": "100000"}
    files |= {f"{folder}/cpu.cfs_quota_us": "150000", f"{folder}/cpu.cfs_period_us": "50000"}
    write(root, "12:memory:/jobs\n4:cpu,cpuacct:/jobs\n", **files)
    assert cpu_quota(root) == 3


def test_libraries_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_libraries(root)
    assert "OMP_NUM_THREADS" not in os.environ
    write(root, "0::/\n", **{"cpu.max": "200000 100000"})
    limit_libraries(root)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    limit_libraries(root)
    assert os.environ["OMP_NUM_THREADS"] == "5"
