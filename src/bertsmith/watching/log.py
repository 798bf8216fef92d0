"""metrics.jsonl while somebody else writes it: new whole lines, and whether it was begun anew."""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Piece:
    """Entries that came since a reader last asked.

    Attributes:
        generation: names the file that the offset is of; ask with both the next time.
        offset: the first byte that was not read.
        is_new: the file is another one than the reader's: forget all entries of before.
        has_more: there are more whole lines already.
        entries: in their order; numbers that JSON cannot hold (nan, infinity) are None.
    """

    generation: str
    offset: int
    is_new: bool
    has_more: bool
    entries: list[dict[str, Any]]


class GrowingLog:
    """A metrics.jsonl that another thread or process appends to, and replaces when a run goes on.

    Threads may share one.

    Args:
        path: the file; it may come later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._number = 0
        self._read = 0
        self._lock = threading.Lock()

    def read(self, generation: str = "", offset: int = 0, at_most: int = 2**20) -> Piece:
        """Return the whole lines from ``offset`` on, about ``at_most`` bytes of them; a half-written last one waits.

        Without a file there is nothing to read, and what was read before is forgotten.
        """
        with self._lock:
            self._follow_replacement()
            # A page may outlive the process that served it.
            name = f"{os.getpid()}-{self._number}"
            if generation != name:
                offset = 0
            data, has_more = self._whole_lines(offset, at_most)
            self._read = max(self._read, offset + len(data))
            return Piece(name, offset + len(data), generation != name, has_more, _entries(data))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _follow_replacement(self) -> None:
        """Open the file that now has the name. The old one is held open until then: its number cannot come again."""
        try:
            now = self._path.stat()
        except OSError:
            now = None
        if self._file is not None:
            held = os.fstat(self._file.fileno())
            if now is not None and (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino) and now.st_size >= self._read:
                return
            self._file.close()
            self._file = None
            self._number += 1
            self._read = 0
        if now is not None:
            try:
                self._file = self._path.open("rb")
            except OSError:
                return

    def _whole_lines(self, offset: int, at_most: int) -> tuple[bytes, bool]:
        if self._file is None:
            return b"", False
        self._file.seek(offset)
        data = self._file.read(at_most)
        if len(data) == at_most and b"\n" not in data:
            data += self._file.readline()
        end = data.rfind(b"\n") + 1
        return data[:end], len(data) >= at_most


def _entries(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # empty, or cut short by a kill
        if isinstance(entry, dict) and "step" in entry:
            found.append({name: _held(value) for name, value in entry.items()})
    return found


def _held(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
