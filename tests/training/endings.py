"""Stages whose processes end in several ways, in a module that other processes import quickly."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bertsmith.console import Log
from bertsmith.errors import InputError


@dataclass(frozen=True)
class Ending:
    """How the first process ends, and how the others do.

    Attributes:
        devices: how many processes there are.
        file: what the first one writes before it ends.
        first, others: names of what is raised; "hangs" and "dies" raise nothing.
        seconds: how long the first one writes.
    """

    devices: int
    file: Path
    first: str
    others: str
    seconds: float = 0.0


def end(settings: Ending, log: Log) -> None:
    """End as the settings say."""
    if os.environ["RANK"] != "0":
        leave(settings.others, settings.file)
    time.sleep(settings.seconds)
    settings.file.write_text("whole", encoding="utf-8")
    leave(settings.first, settings.file)


def leave(how: str, file: Path) -> None:
    """Leave a process."""
    if how == "hangs":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(300)
    if how == "dies":
        os._exit(7)
    raise {
        "stop": KeyboardInterrupt(),
        "input": InputError("is not what it was", path=file, line=3),
        "denied": PermissionError(errno.EACCES, "Permission denied", file),
        "memory": MemoryError(),
    }[how]
