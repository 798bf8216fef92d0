"""The exceptions that a user's input can cause, and the one that the end of another process causes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the user gave cannot be used: a file, a row, a setting, a directory.

    The message says what was seen and what is expected. The command line prints it without a
    traceback and exits with code 2.

    Args:
        message: what was seen, what was expected, what to do.
        path: the file or directory that it is about, anything whose text names it.
        line: its line, counted from 1.
    """

    def __init__(self, message: str, *, path: object = None, line: int | None = None) -> None:
        where = "" if path is None else str(path)
        if line is not None:
            where += f":{line}"
        super().__init__(f"{where}: {message}" if where else message)
        self.where, self.message = where, message
        self.path = path
        self.line = line


class DivergedError(InputError):
    """Too many steps in a row had a loss or a gradient that is no number: with these settings nothing is learned."""


class LostProcessError(Exception):
    """Another process of the same run ended, and this one cannot go on without it.

    The command line prints it without a traceback and exits with code 1, so that torchrun starts the run again.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest of ``names``, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
