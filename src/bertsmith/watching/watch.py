"""``bertsmith watch``: the curves of a run as they grow, on a page of this machine."""

from __future__ import annotations

import threading

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.watch_config import WatchSettings
from bertsmith.watching.log import METRICS
from bertsmith.watching.server import served


def watch(settings: WatchSettings, log: Log | None = None, until: threading.Event | None = None) -> None:
    """Serve the page of a run until Ctrl-C, or until ``until`` is set.

    Raises:
        InputError: there is no run, or the port cannot be used.
    """
    log = log or Log()
    run = settings.run
    if not any((run / name).is_file() for name in ("config.yaml", METRICS)):
        raise InputError(
            "is no run: expected a directory with config.yaml or metrics.jsonl, as pretrain and finetune write it",
            path=run,
        )
    with served(run, settings.port) as address:
        log.say(f"the curves of {run}: {address}   (Ctrl-C ends this; the run goes on)")
        if settings.open:
            import webbrowser

            webbrowser.open(address)
        try:
            (until or threading.Event()).wait()
        except KeyboardInterrupt:
            log.say("no longer watching")
