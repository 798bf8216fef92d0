"""onnxruntime and openvino, imported so that they report nothing to their makers: what runs here stays here."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_REPORTER = "openvino_telemetry"


def onnxruntime() -> Any:
    """Import onnxruntime; its official builds send events to Microsoft unless the environment says no before that."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def openvino() -> Any:
    """Import openvino; it tells Google Analytics of its imports and conversions unless a package of it is missing."""
    with _missing(_REPORTER):
        return importlib.import_module("openvino")


@functools.cache
def openvino_core() -> Any:
    """Return the one core of openvino that this process has, for as long as it runs.

    Its plugin for processors gives the thread that loads it a stack for signals and takes that memory away when the
    last model goes. Where another thread lets it go, the first thread's next signal, Ctrl-C for one, is a crash.
    """
    return openvino().Core()


@contextlib.contextmanager
def _missing(package: str) -> Iterator[None]:
    before = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # this is how Python marks what cannot be imported
    try:
        yield
    finally:
        del sys.modules[package]
        if before is not None:
            sys.modules[package] = before
