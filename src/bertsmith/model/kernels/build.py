"""Compiles this folder's C++ on first use, for this very processor; without a compiler torch's operators do it all."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent
_SOURCES = tuple(sorted(_FOLDER.glob("*.cpp")))
_SWITCH = "BERTSMITH_KERNELS"
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-march=native")
_TIMEOUT_SECONDS = 120


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where there is no compiler or ``BERTSMITH_KERNELS=0`` says so.

    The first call on a machine compiles for some seconds; later ones find the file in the user's cache directory. Its
    name depends on the source, the compiler, torch and the processor: a home directory shared by unlike machines holds
    one for each.
    """
    if os.environ.get(_SWITCH) == "0" or sys.byteorder != "little":
        return None
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        path = _compiled(compiler)
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            path.unlink()  # something else stands there
            return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None


def _compiler() -> list[str] | None:
    """Return the command of the C++ compiler: ``CXX`` if it is set, otherwise what the system calls c++."""
    for command in (shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]):
        if command and shutil.which(command[0]):
            return command
    return None


def _compiled(compiler: list[str]) -> Path:
    """Return the path of the library, after compiling it if it is not there yet."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=_TIMEOUT_SECONDS).stdout
    texts = [path.read_bytes() for path in (*_SOURCES, *sorted(_FOLDER.glob("*.h")))]
    key = (texts, version, torch.__version__, _processor(), " ".join(_FLAGS))
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertsmith"
    target = folder / f"kernels-{digest}.so"
    if target.exists():
        return target
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = tempfile.mkdtemp(dir=folder)
    except OSError:
        # A home that cannot be written to: compile once a process.
        folder = Path(tempfile.mkdtemp(prefix="bertsmith-"))
        probe = tempfile.mkdtemp(dir=folder)
        target = folder / target.name
    try:
        made = Path(probe) / target.name
        _compile(compiler, made)
        made.replace(target)  # two processes that compile at once each leave a whole file
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    return target


def _compile(compiler: list[str], target: Path) -> None:
    """Compile all sources at once and link with the OpenMP runtime that torch brings.

    A second one would have threads of its own.
    """
    folder = Path(torch.__file__).parent / "lib"
    runtime = sorted(path for name in ("gomp", "omp", "iomp5") for path in folder.glob(f"lib{name}[.-]*"))
    openmp = ["-fopenmp"] if runtime else []
    unlinked = [str(target.with_name(f"{source.stem}.o")) for source in _SOURCES]
    commands = [
        [*compiler, *_FLAGS, *openmp, "-c", str(source), "-o", made]
        for source, made in zip(_SOURCES, unlinked, strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_run, commands))
    _run([*compiler, "-shared", *unlinked, *map(str, runtime[:1]), "-o", str(target)])


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_SECONDS)


def _processor() -> str:
    """Return what tells processors with different instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.version()}"
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.machine())
