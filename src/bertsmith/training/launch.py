"""``--devices N``: the same stage in N processes of this machine; several machines are torchrun's or accelerate's."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

from bertsmith.console import Log
from bertsmith.errors import InputError, LostProcessError
from bertsmith.training.processes import Processes, environment_of, joined, refuse_standard_input


class HasDevices(Protocol):
    """Settings that say in how many processes a stage runs."""

    @property
    def devices(self) -> int:
        """Their number."""


class SharesTexts(HasDevices, Protocol):
    """Settings of a stage whose processes share the texts of a file."""

    @property
    def input(self) -> Path:
        """The file, or - for standard input."""


Settings = TypeVar("Settings", bound=HasDevices)
TextSettings = TypeVar("TextSettings", bound=SharesTexts)
Result = TypeVar("Result")

# When one process has ended badly the others notice at their next word to it.
_GRACE_SECONDS = 30.0
# A second signal ends no process by itself, so its coming is looked for.
_ROUND_SECONDS = 1.0
# What the parent raises again, most telling first: others may have ended because of it.
_PASSED_ON = (InputError, KeyboardInterrupt, OSError, MemoryError, LostProcessError)
# All processes end by these alike, and the first one may still be writing what the run goes on from.
_AGREED = (InputError, KeyboardInterrupt)


@dataclass(frozen=True)
class _Outcome:
    """How the stage ended in a process: a result, or an error that the parent raises again."""

    rank: int
    result: Any = None
    error: BaseException | None = None


def is_started_by_an_engine() -> bool:
    """Tell, where ``devices`` are several, whether torchrun, accelerate or :func:`launch` started this process for it.

    Raises:
        InputError: an engine did, but as the only one.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    if os.environ["WORLD_SIZE"] == "1":
        raise InputError(
            "--devices asks for several processes, but the environment says that this is the only one (RANK and "
            "WORLD_SIZE=1, as torchrun sets them): unset both, or give --devices 1"
        )
    return True


def launch(stage: Callable[[Settings, Log], Result], settings: Settings, log: Log) -> Result:
    """Run ``stage(settings, log)`` in ``settings.devices`` processes and return the first one's result.

    Ctrl-C and SIGTERM are handed to the processes; when this one is killed, they stop as if by SIGTERM.

    Raises:
        InputError, OSError, MemoryError: one of them raised it.
        KeyboardInterrupt: they were stopped.
        LostProcessError: one of them was killed or failed otherwise.
    """
    context = multiprocessing.get_context("spawn")
    count, port = settings.devices, _free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    workers = [
        context.Process(target=_work, args=(rank, count, port, stage, settings, log, pipes[rank][1]), daemon=True)
        for rank in range(count)
    ]
    signals: list[int] = []
    before = _hand_on_signals(workers, signals)
    try:
        for worker in workers:
            worker.start()
        for _, ours in pipes:
            ours.close()
        found = _wait_for(workers, [end for end, _ in pipes], signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    result: Result = _verdict(workers, sorted(found, key=lambda outcome: outcome.rank))
    return result


def over_texts(
    stage: Callable[[TextSettings, Log], Result],
    work: Callable[[TextSettings, Processes, Log], Result],
    settings: TextSettings,
    log: Log,
) -> Result:
    """Do a stage's ``work`` as one of the processes that share its texts; start these where ``devices`` asks for them.

    Only the first process says anything.

    Raises:
        InputError: as ``work``, and if several are to share standard input.
        LostProcessError: another of several processes ended.
    """
    if settings.devices > 1 and not is_started_by_an_engine():
        refuse_standard_input(settings.input, settings.devices)
        return launch(stage, settings, log)
    with joined() as processes:
        refuse_standard_input(settings.input, processes.size)
        return work(settings, processes, log if processes.is_first else Log(mute=True))


def _verdict(workers: Sequence[BaseProcess], found: list[_Outcome]) -> Any:
    for kind in _PASSED_ON:
        if kind is LostProcessError:
            _refuse_lost(workers, {outcome.rank for outcome in found})
        for outcome in found:
            if isinstance(outcome.error, kind):
                raise outcome.error
    return found[0].result


def _refuse_lost(workers: Sequence[BaseProcess], heard: set[int]) -> None:
    for rank, worker in enumerate(workers):
        if worker.exitcode and rank not in heard:
            how = f"was ended by signal {-worker.exitcode}" if worker.exitcode < 0 else "failed; see above"
            raise LostProcessError(f"process {rank} of {len(workers)} {how}. What was written before is whole")


def _wait_for(workers: Sequence[BaseProcess], pipes: Sequence[Connection], signals: Sequence[int]) -> list[_Outcome]:
    """Wait until all have ended, and return what they say; when one ends badly and the others hang, end them.

    ``signals`` grows by those that are handed on: by the second one, processes end at once, or hang.
    """
    unheard, found = set(pipes), list[_Outcome]()
    quiet_since = time.monotonic()
    # Asked once a round: to wait for nobody would be to wait forever.
    while (alive := [worker for worker in workers if worker.exitcode is None]) or unheard:
        # A process cannot end before what it says is taken: a pipe holds little.
        ready = wait([*unheard, *(worker.sentinel for worker in alive)], timeout=_ROUND_SECONDS)
        for pipe in unheard.intersection(ready):
            unheard.remove(pipe)
            with contextlib.suppress(EOFError):
                found.append(pipe.recv())
        if ready or not (len(signals) > 1 or _is_badly_ended(workers, found)):
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > _GRACE_SECONDS:
            for worker in alive:
                worker.kill()
                # Nobody should look for the reason in these.
                found.append(_Outcome(workers.index(worker), error=_waited_in_vain(signals)))
        for worker in alive:
            worker.join(timeout=0)
    return found


def _waited_in_vain(signals: Sequence[int]) -> BaseException:
    if len(signals) > 1:
        return KeyboardInterrupt()
    return LostProcessError(
        "one of the processes ended, and the others did not hear of it, so that they were ended too"
    )


def _is_badly_ended(workers: Sequence[BaseProcess], found: Sequence[_Outcome]) -> bool:
    """Tell whether a process has ended in a way that leaves the others waiting for it."""
    # Only the first one has something to write after all have agreed to end: when it is done, nobody should be left.
    agreed = {outcome.rank for outcome in found if outcome.rank and isinstance(outcome.error, _AGREED)}
    return any(worker.exitcode for rank, worker in enumerate(workers) if rank not in agreed)


def _hand_on_signals(workers: Sequence[BaseProcess], signals: list[int]) -> dict[int, Any]:
    """Hand Ctrl-C and SIGTERM on to the workers, and note them; return the handlers from before."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        signals.append(number)
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
    settings: HasDevices,
    log: Log,
    outcome: Connection,
) -> None:
    # The terminal's Ctrl-C would come here beside the one that the parent hands on.
    os.setsid()
    threading.Thread(target=_stop_with_the_parent, daemon=True).start()
    os.environ |= environment_of(rank, count, port)
    try:
        result = stage(settings, log)
        # The others' results are the first one's, and some are large.
        outcome.send(_Outcome(rank, result=result if rank == 0 else None))
    except _PASSED_ON as error:
        outcome.send(_Outcome(rank, error=_to_pass_on(error, rank)))
        raise SystemExit(1) from None


def _to_pass_on(error: BaseException, rank: int) -> BaseException:
    """Return an error as the parent is to raise it, of a class that every process can read."""
    if isinstance(error, InputError):
        # Words and place stay apart: only words are translated.
        return InputError(error.message, path=error.where or None)
    if isinstance(error, OSError):
        place = None if error.filename is None else str(error.filename)
        known = error.errno is not None
        passed: BaseException = OSError(error.errno, error.strerror, place) if known else OSError(str(error))
    elif isinstance(error, MemoryError):
        passed = MemoryError(*map(str, error.args))
    else:
        kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else LostProcessError
        return kind(str(error))
    # Where nobody words the error, its traceback is what there is to look at.
    passed.add_note(f"In process {rank}:\n{''.join(traceback.format_exception(error))}")
    return passed


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
