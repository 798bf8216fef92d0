"""What goes along with a run if asked for: the page (``--watch``) and TensorBoard's files (``--tensorboard``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bertsmith.console import Log
from bertsmith.errors import InputError


class Followed(Protocol):
    """The settings of a run that can be followed."""

    @property
    def output(self) -> Path:
        """The run's directory."""

    @property
    def watch(self) -> bool:
        """Whether there is a page."""

    @property
    def tensorboard(self) -> bool:
        """Whether there are TensorBoard's files."""


def check_followers(settings: Followed) -> None:
    """Refuse what cannot be followed, before anything is written.

    Raises:
        InputError: ``--tensorboard`` without the package.
    """
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the extra 'tensorboard': pip install 'bertsmith[tensorboard]'")


@contextmanager
def followed(settings: Followed, log: Log) -> Iterator[None]:
    """Serve the page and write TensorBoard's files while the block runs.

    Both read metrics.jsonl as anybody could; the run waits for neither.
    """
    with ExitStack() as held:
        if settings.tensorboard:
            from bertsmith.watching.events import event_files

            held.enter_context(event_files(settings.output, log))
        if settings.watch:
            from bertsmith.watching.server import served

            log.say(f"the curves as they grow: {held.enter_context(served(settings.output, 0))}")
        yield
