"""``--devices N``: the same stage in N processes of this machine; several machines are torchrun's or accelerate's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType
from typing import Any, TypeVar

from bertsmith.config import OptimizerSettings
from bertsmith.console import Log
from bertsmith.errors import InputError, LostProcessError
from bertsmith.training.processes import environment_of

Settings = TypeVar("Settings", bound=OptimizerSettings)
Result = TypeVar("Result")

# When one process has ended badly the others notice at their next word to it.
_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class _Outcome:
    """How the stage ended in a process: a result, or an error whose type and words the parent gives again."""

    rank: int
    result: Any = None
    error: type[BaseException] | None = None
    words: str = ""


def is_started_by_an_engine() -> bool:
    """Tell whether torchrun, accelerate or :func:`launch` started this process as one of several, or of one."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(stage: Callable[[Settings, Log], Result], settings: Settings, log: Log) -> Result:
    """Run ``stage(settings, log)`` in ``settings.devices`` processes and return the first one's result.

    Ctrl-C and SIGTERM are handed to the processes; when this one is killed, they stop as if by SIGTERM.

    Raises:
        InputError: one of them raised it.
        KeyboardInterrupt: they were stopped.
        LostProcessError: one of them was killed or failed otherwise.
    """
    context = multiprocessing.get_context("spawn")
    outcomes: SimpleQueue[_Outcome] = context.SimpleQueue()
    count, port = settings.devices, _free_port()
    workers = [
        context.Process(target=_work, args=(rank, count, port, stage, settings, log, outcomes), daemon=True)
        for rank in range(count)
    ]
    before = _hand_on_signals(workers)
    try:
        for worker in workers:
            worker.start()
        _wait_for(workers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    found = []
    while not outcomes.empty():
        found.append(outcomes.get())
    result: Result = _verdict(workers, sorted(found, key=lambda outcome: outcome.rank))
    return result


def _verdict(workers: Sequence[BaseProcess], found: list[_Outcome]) -> Any:
    for kind in (InputError, KeyboardInterrupt):
        for outcome in found:
            if outcome.error is kind:
                # Its words already name the path.
                raise kind(outcome.words)
    for rank, worker in enumerate(workers):
        if worker.exitcode and not any(o.rank == rank for o in found):
            how = f"was ended by signal {-worker.exitcode}" if worker.exitcode < 0 else "failed; see above"
            raise LostProcessError(f"process {rank} of {len(workers)} {how}. The last checkpoint is whole")
    for outcome in found:
        if outcome.error is not None:
            raise LostProcessError(outcome.words)
    return found[0].result


def _wait_for(workers: Sequence[BaseProcess]) -> None:
    """Wait until all have ended; when one ends badly and the others hang, end them."""
    while any(worker.exitcode is None for worker in workers):
        alive = [worker for worker in workers if worker.exitcode is None]
        failed = any(worker.exitcode for worker in workers)
        if not wait([worker.sentinel for worker in alive], timeout=_GRACE_SECONDS if failed else None):
            for worker in alive:
                worker.kill()
        for worker in alive:
            worker.join(timeout=0)


def _hand_on_signals(workers: Sequence[BaseProcess]) -> dict[int, Any]:
    """Hand Ctrl-C and SIGTERM on to the workers; return the handlers from before."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, number)

    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}


def _work(
    rank: int,
    count: int,
    port: int,
    stage: Callable[[Any, Log], Any],
    settings: OptimizerSettings,
    log: Log,
    outcomes: SimpleQueue[_Outcome],
) -> None:
    # The terminal's Ctrl-C would come here beside the one that the parent hands on.
    os.setsid()
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    os.environ |= environment_of(rank, count, port)
    try:
        outcomes.put(_Outcome(rank, result=stage(settings, log)))
    except (InputError, KeyboardInterrupt, LostProcessError) as error:
        kind = next(k for k in (InputError, KeyboardInterrupt, LostProcessError) if isinstance(error, k))
        outcomes.put(_Outcome(rank, error=kind, words=str(error)))
        raise SystemExit(1) from None


def _stop_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
