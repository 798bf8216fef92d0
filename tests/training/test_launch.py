"""Several processes end: who is waited for, who is not, and what the user hears of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError, LostProcessError
from bertsmith.training import launch as module
from bertsmith.training.launch import is_started_by_an_engine, launch
from bertsmith.training.processes import joined
from tests.training.endings import Ending, end

QUIET = Log(quiet=True)
PLACE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_SECONDS", 1.0)


@pytest.mark.parametrize(("how", "kind"), [("stop", KeyboardInterrupt), ("input", InputError)])
def test_the_first_may_write_as_long_as_it_takes(tmp_path: Path, how: str, kind: type[BaseException]) -> None:
    """A checkpoint is written after all have agreed to end; the others have left by then."""
    file = tmp_path / "checkpoint"
    with pytest.raises(kind):
        launch(end, Ending(2, file, first=how, others=how, seconds=8.0), QUIET)
    assert file.read_text(encoding="utf-8") == "whole"


def test_nobody_waits_for_one_that_is_lost(tmp_path: Path) -> None:
    with pytest.raises(LostProcessError, match=r"process 1 of 2 failed; see above\. What was written before is whole"):
        launch(end, Ending(2, tmp_path / "file", first="hangs", others="dies"), QUIET)


def test_the_others_do_not_outlive_the_first(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        launch(end, Ending(2, tmp_path / "file", first="input", others="hangs"), QUIET)
    # Apart, so that the words can be translated.
    assert (caught.value.where, caught.value.message) == (f"{tmp_path / 'file'}:3", "is not what it was")


@pytest.mark.parametrize(("others", "kind"), [("input", InputError), ("hangs", KeyboardInterrupt)])
def test_a_second_signal_ends_who_hangs(tmp_path: Path, others: str, kind: type[BaseException]) -> None:
    file = tmp_path / "file"

    def press_twice() -> None:
        while not file.exists():
            time.sleep(0.1)
        time.sleep(2.0)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    presser = threading.Thread(target=press_twice)
    presser.start()
    with pytest.raises(kind):
        launch(end, Ending(2, file, first="hangs", others=others), QUIET)
    presser.join()


def test_errors_of_the_system_come_through(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        launch(end, Ending(2, file, first="denied", others="hangs"), QUIET)
    assert caught.value.filename == str(file)
    assert "In process 0:\nTraceback" in caught.value.__notes__[0]
    with pytest.raises(MemoryError):
        launch(end, Ending(2, file, first="hangs", others="memory"), QUIET)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x': expected a whole number from 1, as"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"RANK": None}, r"one of 2 processes \(WORLD_SIZE\), but not RANK: "),
        ({"RANK": None, "MASTER_PORT": None}, "but not RANK, MASTER_PORT: "),
        ({"RANK": "2"}, "RANK is '2': expected a whole number from 0 to 1, as"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
    ],
)
def test_an_environment_that_makes_no_sense(
    changes: dict[str, str | None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (PLACE | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words), joined():
        pass


def test_devices_beside_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_started_by_an_engine()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_started_by_an_engine()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(InputError, match=r"this is the only one .* or give --devices 1"):
        is_started_by_an_engine()


def test_waiting_for_the_others_is_said_and_can_be_stopped() -> None:
    code = "from bertsmith.training import processes\nprocesses._SILENT_SECONDS = 0.5\nwith processes.joined(): pass\n"
    waiting = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | PLACE | {"MASTER_PORT": str(module._free_port()), "BERTSMITH_LANG": "en"},
    )
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    assert "process 0 of 2 (RANK, WORLD_SIZE) waits for the other 1 at 127.0.0.1:" in said
    waiting.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in waiting.communicate(timeout=60)[1]
