"""Writing that never leaves a half-written file, and the checks that find one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError

CHECKSUMS = "checksums.json"
LOCK = ".lock"
_SUM = "sha256"


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside ``path`` that takes its place when the block ends without an error.

    At any moment ``path`` is either the old file or the whole new one, also after a power cut.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path``, and the folders above it, as :func:`new_file` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON as :func:`write_bytes` does."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON object; ``what`` names it in the error ("the manifest of a token store").

    Raises:
        InputError: the file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"not found; expected {what} here", path=path) from None
    except OSError as error:
        raise InputError(f"cannot be read as {what}: {error.strerror}", path=path) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"is not readable as {what}: {error}", path=path) from None
    if not isinstance(value, dict):
        raise InputError(f"holds a JSON {type(value).__name__}, expected an object: {what}", path=path)
    return value


def write_summed_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of itself."""
    write_json(path, content | {_SUM: _sum_of(content)})


def read_summed_json(path: Path, *, what: str) -> tuple[dict[str, Any], bool | None]:
    """Read what :func:`write_summed_json` wrote; tell also if it is still that, or None if it has no checksum.

    Raises:
        InputError: as :func:`read_json`.
    """
    content = read_json(path, what=what)
    told = content.pop(_SUM, None)
    return content, None if told is None else told == _sum_of(content)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path`` that takes its place when the block ends without an error.

    A directory that stood there is replaced only then. Every file is synced to disk first, and
    checksums of all of them are written with them (see :func:`check_directory`).

    Raises:
        InputError: what stands above ``path`` is a file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError("is a file or in one; expected a directory to write into", path=path.parent) from None
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for name in _files_below(temporary):
            # safetensors leaves its files to their owner alone.
            (temporary / name).chmod(0o666 & ~_umask())
        seal(temporary)
        if path.exists():
            # A rename cannot replace a full directory, so the old one steps aside first.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            try:
                temporary.replace(path)
            except BaseException:
                (old / path.name).replace(path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def tidy(directory: Path, names: str) -> None:
    """Put right what a killed process left half-done in a directory of ours: nothing else may be writing there.

    What had not got its name yet is removed; a directory that had stepped aside for a new one gets its name back where
    the new one did not take it. Only names that the pattern ``names`` knows are ours to remove.
    """
    for left in sorted(directory.iterdir()):
        match = re.fullmatch(rf"\.({names})(\.old)?\.[a-z0-9_]{{8}}", left.name)
        if match is None:
            continue
        if match[2] and (left / match[1]).exists() and not (directory / match[1]).exists():
            (left / match[1]).replace(directory / match[1])
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


def seal(directory: Path, leave_out: Collection[str] = ()) -> None:
    """Write the checksums of all files below ``directory`` but ``leave_out`` into it and sync everything to disk."""
    names = [name for name in _files_below(directory) if name not in leave_out]
    sums = {name: sha256(directory / name) for name in names}
    write_json(directory / CHECKSUMS, {CHECKSUMS: _sum_of(sums), **sums})
    for name in names:
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())
    for folder in [directory, *(p for p in directory.rglob("*") if p.is_dir())]:
        sync_directory(folder)


def check_directory(path: Path, *, what: str, only: Callable[[str], bool] = lambda name: True) -> None:
    """Compare every file that :func:`seal` saw with its checksum, or those whose names are wanted ``only``.

    Raises:
        InputError: a file is missing, shorter, or changed; the message names it.
    """
    sums = read_json(path / CHECKSUMS, what=f"the checksums of {what}")
    # Directories of earlier versions have no checksum of the checksums.
    if sums.pop(CHECKSUMS, None) not in (None, _sum_of(sums)):
        raise InputError(f"does not match its own checksum: {what} was changed on disk", path=path / CHECKSUMS)
    for name, expected in filter(lambda item: only(item[0]), sums.items()):
        file = path / name
        if not file.is_file():
            raise InputError(f"missing; {what} is not complete", path=file)
        if sha256(file) != expected:
            raise InputError(f"does not match its checksum: {what} was cut short or changed on disk", path=file)


def _sum_of(content: dict[str, Any]) -> str:
    """Return the checksum of what stands in a file of JSON, which such a file can hold itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for one process; a second one is refused while the block runs.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made as a directory: {error.strerror}", path=directory) from None
    with (directory / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another process is writing here; wait for it or choose another output", path=directory
            ) from None
        yield


@contextlib.contextmanager
def only_writer_of(path: Path) -> Iterator[None]:
    """Hold a directory that takes its name when it is whole, as :func:`only_writer` does, by a place beside it.

    Raises:
        InputError: another process holds it, or nothing can be written there.
    """
    holding = path.with_name(f".{path.name}.writing")
    with only_writer(holding):
        try:
            yield
        finally:
            shutil.rmtree(holding, ignore_errors=True)


def _files_below(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file() and p.name != CHECKSUMS)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
