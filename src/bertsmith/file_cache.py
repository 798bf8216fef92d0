"""Copies of other machines' files on this one: bounded in size, shared by all processes that name the same folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from bertsmith.errors import InputError

_LOCK = ".lock"
_PART = ".part"


@dataclass(frozen=True)
class FileCache:
    """Files by key, the least recently used ones removed when room is needed.

    A copy may be removed while somebody reads it: what is open stays readable, and its disk space comes free when it
    is closed.

    Attributes:
        directory: where the copies are; nothing else may be in it.
        max_bytes: of all copies together, those that are being fetched included.
    """

    directory: Path
    max_bytes: int

    def open(self, key: str, size: int, fetch: Callable[[IO[bytes]], None], name: object) -> BufferedReader:
        """Return a copy opened for reading, fetched if it is not there; of several processes one fetches it.

        Args:
            key: a file name that tells one content from another.
            size: of the file, in bytes.
            fetch: writes the content; it raises if it is not what was expected.
            name: of the original, for errors.

        Raises:
            InputError: the file is larger than the cache, the disk is full, or not ``size`` bytes came.
        """
        path = self.directory / key
        while True:
            with contextlib.suppress(FileNotFoundError):
                found = path.open("rb")
                # The time of the last use, by which the oldest is chosen.
                os.utime(found.fileno())
                return found
            if size > self.max_bytes:
                raise InputError(
                    f"holds {size / 1e9:.3g} GB, and the cache {self.directory} may hold "
                    f"{self.max_bytes / 1e9:.3g} GB: raise --cache-gb",
                    path=name,
                )
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._fetch(path, size, fetch, name)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                reason = "the disk is full" if full else f"cannot be written: {error.strerror or error}"
                raise InputError(
                    f"{reason}; copies of remote files may take {self.max_bytes / 1e9:.3g} GB here "
                    "(--cache-gb, --cache)",
                    path=self.directory,
                ) from None

    def remove(self, key: str) -> None:
        """Forget a copy."""
        (self.directory / key).unlink(missing_ok=True)

    def touch(self, key: str) -> None:
        """Mark a copy as used now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.directory / key)

    def holds(self, key: str) -> bool:
        """Tell whether a copy is there now."""
        return (self.directory / key).exists()

    def _fetch(self, path: Path, size: int, fetch: Callable[[IO[bytes]], None], name: object) -> None:
        part = path.with_name(path.name + _PART)
        with part.open("ab") as held:
            # Whoever comes second waits here until the first is done.
            fcntl.flock(held, fcntl.LOCK_EX)
            if not _is_same_file(held, part):
                return  # the first has renamed it, or it was cleared away: look again
            try:
                with self._bookkeeping():
                    self._make_room(size, part)
                    # Its room is taken from here on.
                    held.truncate(size)
                with part.open("r+b") as file:
                    fetch(file)
                    if file.tell() != size:
                        raise InputError(f"gave {file.tell():,} bytes, expected {size:,}", path=name)
                    file.truncate()
                # Whoever counts meanwhile would meet a file that changes its name under neither name.
                with self._bookkeeping():
                    part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _make_room(self, size: int, part: Path) -> None:
        """Remove what dead processes left, then the copies that were used longest ago."""
        copies: list[tuple[float, int, Path]] = []
        used = 0
        for entry in self.directory.iterdir():
            if entry.name == _LOCK or entry == part:
                continue
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(_PART):
                    if not _cleared(entry):
                        used += entry.stat().st_size
                else:
                    found = entry.stat()
                    copies.append((found.st_mtime, found.st_size, entry))
                    used += found.st_size
        for _, freed, copy in sorted(copies):
            if used + size <= self.max_bytes:
                break
            copy.unlink(missing_ok=True)
            used -= freed

    @contextlib.contextmanager
    def _bookkeeping(self) -> Iterator[None]:
        with (self.directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_same_file(held: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _cleared(part: Path) -> bool:
    """Remove what a process that is gone was fetching; false if somebody is at it."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        part.unlink()
    return True
