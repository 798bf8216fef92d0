"""Unfinished work on disk: vectors so far, and how far they go, so that a stopped run goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.features.encoder import Vectors

VECTORS, LENGTHS, TOKEN_IDS = "vectors.bin", "lengths.bin", "token_ids.bin"
_JOB, _PROGRESS = "job.json", "progress.json"
_WRITING = "writing"
_OURS = (VECTORS, LENGTHS, TOKEN_IDS, _JOB, _PROGRESS, _WRITING, files.LOCK)
# What a kill leaves of a file that was about to get its name (files.new_file).
_UNNAMED = re.compile(rf"\.(?:{re.escape(_JOB)}|{re.escape(_PROGRESS)}|{_WRITING})\.[a-z0-9_]{{8}}")
_SHOWN = 3
_AT_ONCE = 1 << 20
_CHANGED = "does not match its checksum: it was changed on disk; --overwrite begins anew"


@dataclass(frozen=True)
class Progress:
    """What is safely on disk.

    Attributes:
        texts: that are done.
        tokens: that they had, with [CLS] and [SEP].
        truncated: texts that were cut.
        digest: of the texts that are done.
        pieces: bytes and SHA-256 of what each run so far has added to each file; what is beyond them was being written
            when the last one stopped.
    """

    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    digest: str = ""
    pieces: dict[str, list[tuple[int, str]]] = field(default_factory=dict)


def work_directory(output: Path) -> Path:
    """Return the folder beside an output that holds what is unfinished of it."""
    return output.parent / f"{output.name}.partial"


def refuse_foreign(directory: Path) -> None:
    """Leave a folder alone that has the name of a work directory and holds what is somebody else's.

    Raises:
        InputError: something in it is not from unfinished work.
    """
    if not directory.is_dir():
        return
    begun = _is_ours(directory / _JOB)
    foreign = sorted(
        path.name
        for path in directory.iterdir()
        if not (path.name == files.LOCK or _UNNAMED.fullmatch(path.name) or (begun and path.name in _OURS))
    )
    if foreign:
        names = ", ".join(foreign[:_SHOWN]) + (", ..." if len(foreign) > _SHOWN else "")
        raise InputError(
            f"holds {names}; expected nothing but unfinished vectors, as this folder is removed when they are done. "
            "Choose another output, or move the folder",
            path=directory,
        )


def _is_ours(job: Path) -> bool:
    """Tell whether a file describes unfinished work."""
    try:
        return {"model", "input", "format"} <= files.read_json(job, what="the description of unfinished vectors").keys()
    except InputError:
        return False


def begin(directory: Path, job: dict[str, Any], *, overwrite: bool) -> Progress:
    """Return how far the work in ``directory`` is; nothing is lost but what was not complete.

    Args:
        directory: exists, is held by this process, and :func:`refuse_foreign` has nothing against it.
        job: the model, settings and input; must be what the work was begun with.
        overwrite: begin anew where it is not, or where what is there is damaged.

    Raises:
        InputError: unfinished work of another model, input or settings stands here, or it is damaged.
    """
    path = directory / _JOB
    if path.exists():
        try:
            _require_same(directory, job)
            return _resume(directory)
        except InputError:
            if not overwrite:
                raise
    for name in (_WRITING, _PROGRESS, VECTORS, LENGTHS, TOKEN_IDS):
        (directory / name).unlink(missing_ok=True)
    files.write_summed_json(path, job)
    return Progress()


def _require_same(directory: Path, job: dict[str, Any]) -> None:
    begun = _checked(directory / _JOB, "the description of unfinished vectors", job)
    different = [name for name in job if begun.get(name) != job[name]]
    if different:
        name = different[0]
        others = {"model": "another model", "input": "another input"}
        seen = others.get(name, f"{name} {begun.get(name)!r}, not {job[name]!r}")
        raise InputError(
            f"holds unfinished vectors made with {seen}; finish them with the command that began them, or give "
            "--overwrite to begin anew",
            path=directory,
        )


def _resume(directory: Path) -> Progress:
    path = directory / _PROGRESS
    if not path.exists():
        return Progress()
    try:
        progress = Progress(**_checked(path, "the progress of unfinished vectors"))
    except TypeError:
        raise InputError("is not the progress of unfinished vectors; --overwrite begins anew", path=path) from None
    for name, pieces in progress.pieces.items():
        file, size = directory / name, sum(size for size, _ in pieces)
        if not file.is_file() or file.stat().st_size < size:
            raise InputError(f"is shorter than the {size:,} bytes that were done; --overwrite begins anew", path=file)
        os.truncate(file, size)
        with file.open("rb") as written:
            if any(_sum_of_next(written, size) != expected for size, expected in pieces):
                raise InputError(_CHANGED, path=file)
    return progress


def _checked(path: Path, what: str, expected: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what a file of ours says, without its checksum; if it is what is ``expected`` the sum does not matter.

    Raises:
        InputError: it cannot be read, or was changed on disk.
    """
    try:
        content, is_whole = files.read_summed_json(path, what=what)
    except InputError as error:
        raise InputError(f"{error.message}; --overwrite begins anew", path=error.path) from None
    # Those of earlier versions have none.
    if content != expected and is_whole is False:
        raise InputError(_CHANGED, path=path)
    return content


def _sum_of_next(file: IO[bytes], size: int) -> str:
    """Return the SHA-256 of the next bytes of a file."""
    digest = hashlib.sha256()
    while size and (read := file.read(min(size, _AT_ONCE))):
        digest.update(read)
        size -= len(read)
    return digest.hexdigest()


class Spool:
    """Files of a work directory that grow; made by :func:`open_spool`."""

    def __init__(self, directory: Path, open_files: dict[str, IO[bytes]], before: Progress) -> None:
        self._directory, self._files, self._before = directory, open_files, before.pieces
        self._sizes = dict.fromkeys(open_files, 0)
        self._sums = {name: hashlib.sha256() for name in open_files}

    def add(self, vectors: Vectors) -> None:
        """Append; it counts only from the next :meth:`commit` on."""
        parts = {VECTORS: vectors.vectors, LENGTHS: vectors.lengths, TOKEN_IDS: vectors.token_ids}
        for name, file in self._files.items():
            added = np.ascontiguousarray(parts[name]).reshape(-1)
            file.write(added.data)
            self._sums[name].update(added.data)
            self._sizes[name] += added.nbytes

    def commit(self, progress: Progress) -> None:
        """Bring what was added to disk, then write that it is there."""
        pieces = {}
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            pieces[name] = [*self._before.get(name, []), (self._sizes[name], self._sums[name].hexdigest())]
        values = asdict(progress) | {"pieces": pieces}
        files.write_summed_json(self._directory / _PROGRESS, values)


@contextlib.contextmanager
def open_spool(directory: Path, *, tokens: bool, progress: Progress) -> Iterator[Spool]:
    """Yield the files of a work directory to append to.

    Args:
        directory: after :func:`begin`.
        tokens: vectors of tokens are written, with lengths and ids beside them.
        progress: what :func:`begin` returned; without any, what is there does not count.
    """
    names = [VECTORS, LENGTHS, TOKEN_IDS] if tokens else [VECTORS]
    mode = "ab" if progress.pieces else "wb"
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context((directory / name).open(mode)) for name in names}
        yield Spool(directory, opened, progress)


def begin_output(directory: Path) -> None:
    """Note that files with the output's name are this work's from now on."""
    files.write_bytes(directory / _WRITING, b"")


def has_begun_output(directory: Path) -> bool:
    """Tell whether a run that was stopped had begun to write its output."""
    return (directory / _WRITING).exists() and (directory / _JOB).exists()


def remove(directory: Path) -> None:
    """Remove a work directory whose output is in place."""
    # Under another name first: half of it would look like unfinished work.
    aside = directory.with_name(f".{directory.name}.done")
    _remove_ours(aside)
    with contextlib.suppress(OSError):
        directory.replace(aside)
        _remove_ours(aside)
        # What somebody else has put there meanwhile.
        if aside.exists():
            aside.replace(directory)


def _remove_ours(directory: Path) -> None:
    """Remove the files of a work directory, and the directory if they were all."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.name in _OURS or _UNNAMED.fullmatch(path.name):
                path.unlink()
        directory.rmdir()
