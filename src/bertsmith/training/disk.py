"""Writing a run's files on a disk that may be full: stop with a sentence, or wait for room."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from bertsmith.console import Log, human
from bertsmith.errors import InputError

Result = TypeVar("Result")

_POLL_SECONDS = 2.0
# A quota that is lifted shows in no figure, and what is needed is an estimate.
_RETRY_SECONDS = 60.0


def _goes_on() -> bool:
    return False


@dataclass(frozen=True)
class Disk:
    """Where a run writes, and what it does when there is no room.

    Attributes:
        folder: any path on the disk.
        log: where waiting is told.
        waits: try again when there is room, instead of ending.
        stopped: whether the user has asked to stop, which ends the waiting.
    """

    folder: Path
    log: Log
    waits: bool = False
    stopped: Callable[[], bool] = _goes_on

    def write(self, what: str, action: Callable[[], Result], needed: int = 0) -> Result:
        """Return what ``action`` does, done again from its start while the disk is full and this disk waits.

        Args:
            what: names it in the message ("the checkpoint of step 500").
            action: leaves nothing half-written when it fails.
            needed: bytes, roughly; 0 if that is not known.

        Raises:
            InputError: the disk is full; what was written before is whole.
        """
        told = False
        while True:
            try:
                return action()
            except (OSError, SafetensorError) as error:
                if not is_full(error):
                    raise
                free = shutil.disk_usage(self.folder).free
            room = f"{human(needed)}B needed, {human(free)}B free" if needed else f"{human(free)}B free"
            if not self.waits or self.stopped():
                raise InputError(
                    f"the disk is full ({room}): {what} could not be written. "
                    "Everything from before is whole; make room and go on with --resume",
                    path=self.folder,
                )
            if not told:
                told = True
                self.log.warn(f"{self.folder}: the disk is full ({room}); {what} waits for room")
            self._wait(free, needed)

    def _wait(self, free: int, needed: int) -> None:
        """Wait until there is more room than ``free`` and as much as is needed; a minute at most."""
        end = time.monotonic() + _RETRY_SECONDS
        while not self.stopped() and time.monotonic() < end:
            now = shutil.disk_usage(self.folder).free
            if now > free and now >= needed:
                return
            time.sleep(_POLL_SECONDS)


def is_full(error: Exception) -> bool:
    """Tell whether an error says that there is no room on the disk, or none within the user's quota."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # The Rust writer of safetensors reports the system's error as text.
    return "No space left on device" in str(error)
