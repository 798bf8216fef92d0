"""A full disk: said with figures, waited for where asked, and nothing from before is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text.store import TokenStore
from bertsmith.training import disk as module
from bertsmith.training.checkpoint import MetricsLog, last_checkpoint, read_metrics
from bertsmith.training.disk import Disk
from bertsmith.training.pretrain import pretrain
from tests.conftest import tiny_run

QUIET = Log(quiet=True)


class Full:
    """An action that finds no room so many times."""

    def __init__(self, times: int, number: int = errno.ENOSPC) -> None:
        self.times, self.number, self.calls = times, number, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise OSError(self.number, os.strerror(self.number))
        return "written"


def test_stopping_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 MB needed, .*B free\): the thing could not be written"):
        Disk(tmp_path, QUIET).write("the thing", Full(1), needed=3_000_000)


def test_waiting_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = iter([10, 10, 10, 500, 500])
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 0, next(free)))
    action = Full(1)
    assert Disk(tmp_path, QUIET, waits=True).write("the thing", action, needed=100) == "written"
    assert action.calls == 2
    assert "the thing waits for room" in capsys.readouterr().err


class Clock:
    """Time that passes by sleeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_quota_that_is_lifted_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk says of its room stays as it is."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 0, 500))
    action = Full(3, errno.EDQUOT)
    assert Disk(tmp_path, QUIET, waits=True).write("the thing", action, needed=100) == "written"
    assert action.calls == 4
    # A minute each: no busy loop either.
    assert 170 < clock.now < 190


def test_too_little_more_room_is_not_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: shutil._ntuple_diskusage(1000, 0, 10 + int(clock.now) + 500 * (clock.now > 40)),
    )
    action = Full(1)
    assert Disk(tmp_path, QUIET, waits=True).write("the thing", action, needed=100) == "written"
    assert (action.calls, 40 < clock.now < 45) == (2, True)


def test_waiting_ends_with_the_users_stop(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the disk is full"):
        Disk(tmp_path, QUIET, waits=True, stopped=lambda: True).write("the thing", Full(9))


def test_other_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        Disk(tmp_path, QUIET, waits=True).write("the thing", Full(1, errno.EACCES))


def test_metrics_that_find_room_for_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    log = MetricsLog(tmp_path / "metrics.jsonl", disk=Disk(tmp_path, QUIET, waits=True))
    real = log._file

    class Small:
        """Takes five bytes, then nothing once, then all."""

        calls = 0

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls == 2:
                monkeypatch.setattr(
                    shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, self.calls + time.monotonic_ns())
                )
                raise OSError(errno.ENOSPC, "No space left on device")
            return real.write(data[:5] if self.calls == 1 else data) or 0

        def close(self) -> None:
            real.close()

    log._file = Small()  # type: ignore[assignment]
    with log:
        log.write({"step": 1, "loss": 2.5})
        log.write({"step": 2, "loss": 2.25})
    assert [e["step"] for e in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1.6 MB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_on_a_disk_that_is_really_full(store: TokenStore, tmp_path: Path, small_disk: Path) -> None:
    pretrain(tiny_run(store, tmp_path / "whole"), QUIET)
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_100_000)
    with pytest.raises(InputError, match=r"the disk is full .*free\): .* could not be written"):
        pretrain(tiny_run(store, run), QUIET)
    assert last_checkpoint(run, QUIET) is not None
    ballast.unlink()
    pretrain(tiny_run(store, run, resume=True), QUIET)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert weights[0] == weights[1]
    steps = [e["step"] for e in read_metrics(run / "metrics.jsonl") if e["kind"] == "train"]
    assert steps == list(range(1, 14))


def test_a_run_that_waits_for_room(store: TokenStore, tmp_path: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_100_000)
    remover = threading.Timer(4.0, ballast.unlink)
    remover.start()
    try:
        result = pretrain(tiny_run(store, run, when_full="wait"), QUIET)
    finally:
        remover.join()
    assert result.steps == 13
