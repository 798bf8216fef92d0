"""What a stage says while it works: lines, warnings and progress, all on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bertsmith.catalogue.translate import phrase, translated

Advance = Callable[..., None]
"""``advance(amount, total=None, **fields)``: the work done since the last call, a new total where the first was a
guess, and values to show beside the bar."""


@dataclass(frozen=True)
class Log:
    """Where a stage reports to. Results go to standard output; everything said here goes to standard error.

    Attributes:
        quiet: say nothing but warnings.
        mute: not even these.
    """

    quiet: bool = False
    mute: bool = False

    def say(self, message: str) -> None:
        """Print one line (rich markup is not interpreted: user text may hold brackets)."""
        if not (self.quiet or self.mute):
            _console().print(translated(message), markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print one line that the user should not miss."""
        if self.mute:
            return
        _console().print(
            phrase("warning: {1}", translated(message)), style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    @contextlib.contextmanager
    def progress(self, what: str, total: float | None, unit: str) -> Iterator[Advance]:
        """Show a bar with the rate in ``unit``/s and the time left; yields a function that moves it on.

        A total of None is one that nobody knows: then what was done stands in place of the time left. Without a
        terminal a line every 15 seconds takes the bar's place, so that log files stay readable.
        """
        what = translated(what)
        if self.quiet or self.mute:
            yield lambda amount=0, total=None, **fields: None
        elif _console().is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                _Done(),
                _Rate(unit),
                TextColumn("{task.fields[shown]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=_console()) as bar:
                task = bar.add_task(what, total=total, shown="")

                def advance(amount: float = 0, total: float | None = None, **fields: str) -> None:
                    shown = {"shown": _join(fields)} if fields else {}
                    bar.update(task, total=total, advance=amount, **shown)  # type: ignore[arg-type]

                yield advance
        else:
            line = _Lines(self, what, total, unit)
            yield line.advance
            line.finish()


class _Lines:
    """Progress as plain lines, for output that is not a terminal."""

    def __init__(self, log: Log, what: str, total: float | None, unit: str) -> None:
        self.log, self.what, self.total, self.unit = log, what, total, unit
        self.done, self.shown = 0.0, ""
        self.start = self.last = time.monotonic()

    def advance(self, amount: float = 0, total: float | None = None, **fields: str) -> None:
        self.done += amount
        self.total = self.total if total is None else total
        if fields:
            self.shown = _join(fields)
        if time.monotonic() - self.last >= 15:
            self.print()

    def print(self) -> None:
        self.last = time.monotonic()
        seconds = max(self.last - self.start, 1e-9)
        if self.total is None:
            share, left = human(self.done), ""
        else:
            # A total may be an estimate that the work goes beyond.
            share = f"{min(100.0, 100 * self.done / self.total) if self.total else 100:3.0f}%"
            missing = max(self.total - self.done, 0)
            left = "  " + phrase("{1} left", clock(missing * seconds / self.done)) if self.done else ""
        self.log.say(f"{self.what} {share}  {_rate(self.done / seconds, self.unit)}  {self.shown}{left}".rstrip())

    def finish(self) -> None:
        if self.done:
            self.print()


class _Done(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(human(task.completed) if task.total is None else f"{task.percentage:>3.0f}%")


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed, self.unit) if speed else "")


def _rate(speed: float, unit: str) -> str:
    return phrase("{1} {2}/s", human(speed), translated(unit))


def human(number: float) -> str:
    """Return a count with three digits and a suffix: ``1.23 M``."""
    for suffix, size in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        # 999.5 of a unit rounds to 1000, which is 1 of the next.
        if abs(number) >= 0.9995 * size:
            return f"{_three_digits(number / size)}{suffix}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    # The format "g" turns to 1e+03 from 1000 on.
    return f"{number:.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def columns_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return cell_len(text)


def justified(text: str, columns: int, *, right: bool = False) -> str:
    """Return a text with spaces to so many columns of a terminal; a Korean letter takes two."""
    spaces = " " * (columns - columns_of(text))
    return spaces + text if right else text + spaces


def clock(seconds: float) -> str:
    """Return a duration as ``1:02:03`` or ``2:03``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def _join(fields: dict[str, str]) -> str:
    return "  ".join(f"{name} {value}" for name, value in fields.items())


def _console() -> Console:
    # Made on each use: sys.stderr may have been replaced since (tests, notebooks).
    return Console(file=sys.stderr)
